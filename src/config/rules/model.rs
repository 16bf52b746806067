//! Rules of `model:`.

use super::Rules;
use crate::compute::cuda::probe;
use crate::compute::device;
use crate::config::problems::Severity;
use crate::hub::HubName;
use crate::model::config::{DeviceChoice, ModelDtype};

impl Rules<'_> {
    /// Where models are, and what computes them.
    pub(super) fn model(&mut self) {
        for key in ["model.source", "model.second"] {
            let source: String = self.value(key).unwrap_or_default();
            if HubName::is_hub(&source) {
                if let Err(e) = HubName::parse(&source) {
                    self.broken(key, e.to_string());
                }
            } else if source.contains("://") {
                let hint = "download it and give the folder with config.json, *.safetensors and tokenizer.json";
                let rule = "must be a local folder or hf://owner/name@revision";
                self.add(Severity::Error, key, rule.to_owned(), Some(hint.to_owned()));
            }
        }
        let device: String = self.value("model.device").unwrap_or_default();
        match DeviceChoice::parse(&device) {
            Some(DeviceChoice::Auto) if device::cuda_driver_present() => {
                let rule = "`auto` is the CPU, also beside a CUDA driver: no kernel has run on a GPU yet";
                let hint = "`device: cuda` with `dtype: bfloat16` computes there all the same (docs/gpu.md)";
                self.add(Severity::Note, "model.device", rule.to_owned(), Some(hint.to_owned()));
            }
            Some(DeviceChoice::Cuda(ordinal)) => self.cuda(ordinal),
            _ => {}
        }
    }

    /// What a GPU needs that the file says or the machine has.
    fn cuda(&mut self, ordinal: usize) {
        if self.value::<ModelDtype>("model.dtype") == Some(ModelDtype::Float32) {
            let hint = "set `dtype: bfloat16`, or `device: cpu`".to_owned();
            let rule = "must be bfloat16 with `device: cuda`: there are no kernels for another".to_owned();
            self.add(Severity::Error, "model.dtype", rule, Some(hint));
            return;
        }
        let unusable = match probe::probe() {
            Err(unavailable) => Some(unavailable.to_string()),
            Ok(found) => match found.gpus.get(ordinal) {
                Some(gpu) => gpu.why_not(),
                None => Some(format!("the driver sees {} devices", found.gpus.len())),
            },
        };
        if let Some(reason) = unusable {
            let hint = "`harvestd devices` says what there is; `auto` and `cpu` compute on the CPU".to_owned();
            let rule = format!("cannot be used: {reason}");
            self.add(Severity::Error, "model.device", rule, Some(hint));
        }
    }
}
