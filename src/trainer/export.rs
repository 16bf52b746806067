//! A trainer's coder as folders of other tools.

use crate::compute::CoderOps;
use crate::error::{Error, Result};
use crate::hooks::SiteWidth;
use crate::sae::export::{self, ExportMetadata, ExportedCoder};
use crate::sae::formats::{Files, Format};
use crate::sae::{Coder, Params};
use crate::trainer::Trainer;

impl<B: CoderOps> Trainer<B> {
    /// Why no format of others has a form of the coder, if none has: its checkpoint is the coder then.
    fn not_exported(&self) -> Option<&'static str> {
        match &self.base {
            Some(base) => base.not_one_coder(&self.plan.coder),
            None => self.plan.coder.not_exported(),
        }
    }

    /// The coder as a SAELens folder: (file name, bytes).
    ///
    /// # Errors
    /// `Data` if no step was made yet, `Config` if that has no form of it.
    pub fn export(&self, metadata: ExportMetadata) -> Result<Vec<(String, Vec<u8>)>> {
        self.exported(metadata)?.write()
    }

    /// The coder as a folder of another format; `None` if that cannot hold it.
    ///
    /// # Errors
    /// `Data` if no step was made yet.
    pub fn export_as(&self, format: Format, metadata: ExportMetadata) -> Result<Option<Files>> {
        match self.not_exported() {
            None => format.write(&self.exported(metadata)?),
            Some(_) => Ok(None),
        }
    }

    /// The coder without what only training has.
    ///
    /// # Errors
    /// `Data` if no step was made yet, `Config` if no format has a form of it.
    pub fn exported(&self, metadata: ExportMetadata) -> Result<ExportedCoder> {
        if let Some(why) = self.not_exported() {
            let name = &self.settings.config.name;
            return Err(Error::config(format!("no format holds the coder of trainer `{name}`: {why}")));
        }
        let training = self.started()?;
        let point = self.settings.point();
        let mut metadata = export::metadata(&point.whole().to_string(), point.head, &metadata);
        if self.base.is_none() && !self.plan.coder.target.is_input {
            let names = |sites: &[SiteWidth]| sites.iter().map(|(site, _)| site.to_string()).collect::<Vec<_>>();
            export::name_target(&mut metadata, &names(self.settings.reads()), &names(self.settings.writes()));
        }
        let backend = &*self.backend;
        let export = |coder: &Coder<B>, params: &Params<B>| {
            ExportedCoder::new(backend, coder, params, &training.scales, metadata)
        };
        let rows = self.settings.config.normalize.rows();
        let own = ExportedCoder { rows, ..training.judged(backend, export)? };
        match &self.base {
            Some(base) => base.joined(own),
            None => Ok(own),
        }
    }
}
