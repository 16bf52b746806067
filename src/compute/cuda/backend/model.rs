//! [`ModelOps`] on a device: each method makes the launches of its kernels.

use super::super::kernels::act::{Act, kind};
use super::super::kernels::add_norm::AddNorm;
use super::super::kernels::attention::Attention;
use super::super::kernels::elementwise::{AttentionMaps, Combine};
use super::super::kernels::embed::Embed;
use super::super::kernels::rope::Rope;
use super::super::kernels::{In, Out};
use super::{Cuda, Matrix, Memory, Tensor, refused};
use crate::compute::backend::LinearDims;
use crate::compute::model_ops::{
    Activation, AttentionDims, AttentionSides, BatchRows, BatchShape, ExpertDims, HeadResultDims, ModelOps, NormDims,
    NormKind, Qkv, RopeDims, RouteDims,
};
use crate::compute::projection::{Projection, ProjectionDims, Then};

/// The rows of a batch on the device.
pub struct BatchIndex {
    context_length: usize,
    max_tokens: usize,
    n: usize,
    /// `[n]` each.
    ids: Memory,
    positions: Memory,
    /// The first row of each row's context, and the column of its key.
    starts: Memory,
    columns: Memory,
    /// `[n, heads]`, made when patterns are first wanted.
    log_sums: Option<Memory>,
}

/// A norm of `n` rows: everything but what is asked for.
fn norm(x: &Tensor, dims: NormDims, is_layer: bool) -> AddNorm {
    AddNorm {
        // nothing is added, so nothing is written
        residual: Out::at(x.halves(dims.n * dims.d).address()),
        d: dims.d as i32,
        eps: dims.eps as f32,
        is_layer: i32::from(is_layer),
        ..AddNorm::default()
    }
}

impl Cuda {
    /// `y = f(gate) * up` over the first `len` numbers.
    fn act(&self, f: Activation, gate: u64, up: u64, len: usize) {
        if len == 0 {
            return;
        }
        assert!(len <= i32::MAX as usize, "{len} numbers at once");
        let act = Act {
            gate: In::at(gate),
            up: In::at(up),
            y: Out::at(gate),
            n: 1,
            m: len as i32,
            stride: len as i32,
            kind: kind(f),
        };
        self.device.launch(&act.launch());
    }

    fn embed(&self, ids: &Memory, n: usize, table: &Matrix, y: &mut Tensor, d: usize) {
        let embed = Embed {
            ids: In::at(ids.address()),
            tokens: In::at(table.memory.address()),
            y: y.new_halves(n * d),
            n: n as i32,
            d: d as i32,
            scale: 1.0,
            ..Embed::default()
        };
        self.device.launch(&embed.launch());
    }
}

impl ModelOps for Cuda {
    type BatchIndex = BatchIndex;

    fn batch_index(&self, shape: BatchShape, _: AttentionDims) -> BatchIndex {
        let room = || self.memory(shape.max_tokens * size_of::<u32>());
        BatchIndex {
            context_length: shape.context_length,
            max_tokens: shape.max_tokens,
            n: 0,
            ids: room(),
            positions: room(),
            starts: room(),
            columns: room(),
            log_sums: None,
        }
    }

    fn load_batch(&self, index: &mut BatchIndex, rows: BatchRows<'_>) {
        index.n = rows.ids.len();
        assert!(index.n <= index.max_tokens && rows.positions.len() == index.n);
        let (mut starts, mut columns) = (Vec::with_capacity(index.n), Vec::with_capacity(index.n));
        for context in rows.contexts {
            starts.extend(std::iter::repeat_n(context.start as u32, context.len));
            columns.extend(std::iter::repeat_n(context.column as u32, context.len));
        }
        assert_eq!(starts.len(), index.n, "contexts tile the rows");
        let parts = [
            (&index.ids, rows.ids),
            (&index.positions, rows.positions),
            (&index.starts, &starts),
            (&index.columns, &columns),
        ];
        for (memory, data) in parts {
            memory.write(0, bytemuck::cast_slice(data).to_vec());
        }
    }

    fn embed_tokens(&self, index: &BatchIndex, table: &Matrix, y: &mut Tensor, d: usize) {
        self.embed(&index.ids, index.n, table, y, d);
    }

    fn embed_positions(&self, index: &BatchIndex, table: &Matrix, y: &mut Tensor, d: usize) {
        self.embed(&index.positions, index.n, table, y, d);
    }

    fn rms_norm(&self, x: &Tensor, weight: Option<&Tensor>, y: &mut Tensor, dims: NormDims) {
        let weight_a = weight.map_or_else(In::default, |weight| weight.floats(dims.d));
        let norm = AddNorm { weight_a, y_a: y.new_halves(dims.n * dims.d), ..norm(x, dims, false) };
        self.device.launch(&norm.launch(dims.n));
    }

    fn layer_norm(&self, x: &Tensor, affine: Option<(&Tensor, &Tensor)>, y: &mut Tensor, dims: NormDims) {
        let (weight_a, bias_a) =
            affine.map_or_else(Default::default, |(weight, bias)| (weight.floats(dims.d), bias.floats(dims.d)));
        let norm = AddNorm { weight_a, bias_a, y_a: y.new_halves(dims.n * dims.d), ..norm(x, dims, true) };
        self.device.launch(&norm.launch(dims.n));
    }

    fn norm_scale(&self, kind: NormKind, x: &Tensor, y: &mut Tensor, dims: NormDims) {
        let norm = AddNorm { scale: y.new_floats(dims.n), ..norm(x, dims, kind == NormKind::Layer) };
        self.device.launch(&norm.launch(dims.n));
    }

    fn rope(&self, index: &BatchIndex, x: &mut Tensor, cos: &Tensor, sin: &Tensor, dims: RopeDims) {
        let RopeDims { heads, e, rotary } = dims;
        if rotary == 0 {
            return;
        }
        let room = index.context_length * rotary / 2;
        let rope = Rope {
            x: x.halves_mut(index.n * heads * e),
            positions: In::at(index.positions.address()),
            cos: cos.floats(room),
            sin: sin.floats(room),
            n: index.n as i32,
            heads: heads as i32,
            e: e as i32,
            rotary: rotary as i32,
            stride: (heads * e) as i32,
            ..Rope::default()
        };
        self.device.launch(&rope.launch());
    }

    fn attention(
        &self,
        index: &mut BatchIndex,
        qkv: Qkv<'_, Tensor>,
        z: &mut Tensor,
        sides: AttentionSides<'_, Tensor>,
        dims: AttentionDims,
    ) {
        let AttentionDims { heads, kv_heads, e, scale, window, softcap } = dims;
        let (n, t) = (index.n, index.context_length);
        let wants_maps = sides.scores.is_some() || sides.pattern.is_some();
        if wants_maps {
            let bytes = index.max_tokens * heads * size_of::<f32>();
            index.log_sums.get_or_insert_with(|| self.memory(bytes));
        }
        let log_sums = index.log_sums.as_ref().filter(|_| wants_maps).map_or(0, Memory::address);
        let (q, k) = (qkv.q.halves(n * heads * e), qkv.k.halves(n * kv_heads * e));
        let (window, softcap) = (window.map_or(0, |window| window as i32), softcap.unwrap_or(0.0));
        let attention = Attention {
            q,
            k,
            v: qkv.v.halves(n * kv_heads * e),
            z: z.new_halves(n * heads * e),
            lse: Out::at(log_sums),
            starts: In::at(index.starts.address()),
            n: n as i32,
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            e: e as i32,
            q_stride: (heads * e) as i32,
            kv_stride: (kv_heads * e) as i32,
            scale,
            softcap,
            window,
        };
        self.device.launch(&attention.launch());
        if wants_maps {
            let maps = AttentionMaps {
                q,
                k,
                lse: In::at(log_sums),
                starts: In::at(index.starts.address()),
                columns: In::at(index.columns.address()),
                scores: sides.scores.map_or_else(Out::default, |t_| t_.new_halves(n * heads * t)),
                pattern: sides.pattern.map_or_else(Out::default, |t_| t_.new_halves(n * heads * t)),
                n: n as i32,
                heads: heads as i32,
                kv_heads: kv_heads as i32,
                e: e as i32,
                context: t as i32,
                scale,
                softcap,
                window,
            };
            self.device.launch(&maps.launch());
        }
    }

    fn head_results(&self, z: &Tensor, w: &Matrix, y: &mut Tensor, dims: HeadResultDims) {
        let HeadResultDims { n, heads, e, d } = dims;
        assert!(w.len >= d * heads * e);
        let (z, y) = (z.halves(n * heads * e).address(), y.new_halves(n * heads * d).address());
        for head in 0..heads as u64 {
            let (at, to) = (head * e as u64 * 2, head * d as u64 * 2);
            let addresses = [z + at, w.memory.address() + at, y + to];
            let strides = [heads * e, heads * e, heads * d];
            self.product(addresses, None, strides, LinearDims { n, n_in: e, n_out: d }, false);
        }
    }

    fn activate(&self, f: Activation, x: &mut Tensor, len: usize) {
        self.act(f, x.halves_mut(len).address(), 0, len);
    }

    fn activate_mul(&self, f: Activation, gate: &mut Tensor, up: &Tensor, len: usize) {
        self.act(f, gate.halves_mut(len).address(), up.halves(len).address(), len);
    }

    fn route(&self, _: &Tensor, _: &mut Tensor, _: &mut Tensor, _: RouteDims) {
        refused("a mixture of experts");
    }

    fn expert_linear(&self, _: &Tensor, _: &[Matrix], _: &Tensor, _: &mut Tensor, _: ExpertDims) {
        refused("a mixture of experts");
    }

    fn mix_experts(&self, _: &Tensor, _: &Tensor, _: &mut Tensor, _: usize, _: usize, _: usize) {
        refused("a mixture of experts");
    }

    fn project(&self, x: &Tensor, dims: ProjectionDims, parts: &mut [Projection<'_, Self>]) {
        let ProjectionDims { n, n_in } = dims;
        let x = x.halves(n * n_in).address();
        for Projection { factor, n_out, then, y } in parts {
            let (n_out, len) = (*n_out, n * *n_out);
            let shape = LinearDims { n, n_in, n_out };
            let strides = [n_in, n_in, n_out];
            assert!(factor.w.len >= n_in * n_out);
            let adds = matches!(then, Then::Add);
            let y = if adds { y.halves_mut(len) } else { y.new_halves(len) }.address();
            self.product([x, factor.w.memory.address(), y], factor.bias, strides, shape, adds);
            match then {
                Then::Keep | Then::Add => {}
                Then::Activate(f) => self.act(*f, y, 0, len),
                Then::Gate(f, up) => self.with_scratch(len * 2, |scratch| {
                    self.product([x, up.w.memory.address(), scratch], up.bias, strides, shape, false);
                    self.act(*f, y, scratch, len);
                }),
            }
        }
    }

    fn scale(&self, x: &mut Tensor, factor: f32, len: usize) {
        let combine = Combine { x: x.halves_mut(len), y: In::default(), len: len as u64, factor };
        self.device.launch(&combine.launch());
    }

    fn add(&self, x: &mut Tensor, y: &Tensor, len: usize) {
        let combine = Combine { x: x.halves_mut(len), y: y.halves(len), len: len as u64, factor: 1.0 };
        self.device.launch(&combine.launch());
    }
}
