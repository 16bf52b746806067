//! Decoder maps: how a step's decoder `[f, out]` is made from the parameters, and how its gradient comes back to them. One file
//! each; `identity` is none of them, and costs nothing.
//!
//! Everything between the two reads the decoder in `params.w_dec` and leaves its gradient in `gradients.w_dec`, whatever was
//! trained: [`MappedDecoder::enter`] puts the buffers of the map there, [`MappedDecoder::leave`] takes them out again.

mod archetypal;
mod normalized;
pub(crate) mod scaled;
mod tied;

use crate::compute::CoderOps;
use crate::sae::params::{self, Gradients, Params};
use crate::sae::settings::{CoderSettings, DecoderMapSettings};

/// One way to make a decoder. `points` `[points, out]` are rows of the data, for maps that use some: they do not change.
trait DecoderMap<B: CoderOps>: Send + Sync {
    /// Write the decoder.
    fn forward(&self, backend: &B, points: &B::Tensor, params: &Params<B>, w_dec: &mut B::Tensor);

    /// From the decoder `[f, out]` and the gradient with respect to it, which may be overwritten: set the gradients of the
    /// map's own parameters, and add to that of `w_enc`.
    fn backward(
        &self,
        backend: &B,
        points: &B::Tensor,
        params: &Params<B>,
        decoder: (&B::Tensor, &mut B::Tensor),
        gradients: &mut Gradients<B>,
    );
}

fn build<B: CoderOps>(settings: &CoderSettings) -> Option<Box<dyn DecoderMap<B>>> {
    let dims = settings.dims;
    match settings.decoder_map {
        DecoderMapSettings::Identity => None,
        DecoderMapSettings::Normalized => Some(Box::new(normalized::Normalized { dims })),
        DecoderMapSettings::Tied => Some(Box::new(tied::Tied { dims })),
        DecoderMapSettings::Scaled => Some(Box::new(scaled::Scaled { dims })),
        DecoderMapSettings::Archetypal(settings) => Some(Box::new(archetypal::Archetypal { dims, settings })),
    }
}

/// A map, and its buffers for a step.
pub struct MappedDecoder<B: CoderOps> {
    map: Box<dyn DecoderMap<B>>,
    /// `[f, out]` the decoder and its gradient; those of the parameter `w_dec` while a step has these.
    w_dec: B::Tensor,
    g: B::Tensor,
}

impl<B: CoderOps> MappedDecoder<B> {
    /// That of `settings`; none if the decoder is a parameter itself.
    pub fn new(backend: &B, settings: &CoderSettings) -> Option<Self> {
        let len = settings.dims.f * settings.dims.out;
        build(settings).map(|map| Self { map, w_dec: backend.zeros(len), g: backend.zeros(len) })
    }

    /// Before a step: the decoder in the place of the parameter.
    pub fn enter(&mut self, backend: &B, points: &B::Tensor, params: &mut Params<B>, gradients: &mut Gradients<B>) {
        self.map.forward(backend, points, params, &mut self.w_dec);
        std::mem::swap(&mut self.w_dec, &mut params.w_dec);
        std::mem::swap(&mut self.g, &mut gradients.w_dec);
    }

    /// After it: the parameter in its place again, and gradients of what is trained.
    pub fn leave(&mut self, backend: &B, points: &B::Tensor, params: &mut Params<B>, gradients: &mut Gradients<B>) {
        std::mem::swap(&mut self.w_dec, &mut params.w_dec);
        std::mem::swap(&mut self.g, &mut gradients.w_dec);
        self.map.backward(backend, points, params, (&self.w_dec, &mut self.g), gradients);
    }
}

/// Parameters whose `w_dec` is the decoder: those given, or copies where it has to be made.
pub fn effective<'a, B: CoderOps>(
    backend: &B,
    settings: &CoderSettings,
    points: &B::Tensor,
    params: &'a Params<B>,
) -> Held<'a, Params<B>> {
    let Some(map) = build::<B>(settings) else { return Held::Borrowed(params) };
    let mut w_dec = backend.zeros(settings.dims.f * settings.dims.out);
    map.forward(backend, points, params, &mut w_dec);
    Held::Owned(Params::<B> { w_dec, ..params::copied(backend, params) })
}

/// A value that is borrowed or held.
pub enum Held<'a, T> {
    /// Of another.
    Borrowed(&'a T),
    /// Its own.
    Owned(T),
}

impl<T> std::ops::Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Borrowed(value) => value,
            Self::Owned(value) => value,
        }
    }
}
