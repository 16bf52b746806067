//! A trainer's coder as folders of other tools.

use crate::compute::CoderOps;
use crate::error::{Error, Result};
use crate::sae::export::{self, ExportMetadata, ExportedCoder};
use crate::sae::formats::{Files, Format};
use crate::sae::{Coder, Params};
use crate::trainer::Trainer;

impl<B: CoderOps> Trainer<B> {
    /// The coder as a SAELens folder: (file name, bytes).
    ///
    /// # Errors
    /// `Data` if no step was made yet.
    pub fn export(&self, metadata: ExportMetadata) -> Result<Vec<(String, Vec<u8>)>> {
        self.exported(metadata)?.write()
    }

    /// The coder as a folder of another format; `None` if that cannot hold it.
    ///
    /// # Errors
    /// `Data` if no step was made yet.
    pub fn export_as(&self, format: Format, metadata: ExportMetadata) -> Result<Option<Files>> {
        format.write(&self.exported(metadata)?)
    }

    /// The coder without what only training has.
    ///
    /// # Errors
    /// `Data` if no step was made yet.
    pub fn exported(&self, metadata: ExportMetadata) -> Result<ExportedCoder> {
        if !self.settings.config.target.is_autoencoder() {
            let name = &self.settings.config.name;
            return Err(Error::config(format!("trainer `{name}` reconstructs other sites: no format holds its coder")));
        }
        let training = self.started()?;
        let point = self.settings.point();
        let metadata = export::metadata(&point.whole().to_string(), point.head, &metadata);
        let backend = &*self.backend;
        let export = |coder: &Coder<B>, params: &Params<B>| {
            ExportedCoder::new(backend, coder, params, &training.scales, metadata)
        };
        let rows = self.settings.config.normalize.rows();
        Ok(ExportedCoder { rows, ..training.judged(backend, export) })
    }
}
