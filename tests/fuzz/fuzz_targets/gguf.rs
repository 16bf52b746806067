//! Everything that is read from a GGUF file.
#![no_main]

use harvestd::model::gguf::Gguf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::read_from(bytes, bytes.len() as u64) else { return };
    for info in gguf.infos() {
        // a tensor that lies in the file is what the reader promises
        let stored = &bytes[info.offset as usize..][..info.bytes as usize];
        if let Ok(encoding) = info.encoding {
            encoding.decode(stored, &mut vec![0.0; info.shape.iter().product()]);
        }
    }
    let _ = (gguf.config(), gguf.tensors(0), gguf.tokenizer_json(), gguf.tokenizer_config());
});
