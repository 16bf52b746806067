//! Rules of `model:`.

use super::Rules;
use crate::compute::device;
use crate::config::problems::Severity;
use crate::hub::HubName;

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
        match self.value::<String>("model.device").unwrap_or_default().as_str() {
            "auto" if device::cuda_driver_present() => {
                self.note("model.device", "there is a CUDA driver here, but this build computes on the CPU");
            }
            device if device == "cuda" || device.starts_with("cuda:") => {
                self.broken("model.device", "this build computes on the CPU: write `auto` or `cpu`");
            }
            _ => {}
        }
    }
}
