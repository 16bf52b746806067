//! The header of a safetensors file, and the tensors that it places.
#![no_main]

use harvestd::model::weights::safetensors::read_header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tensors) = read_header(&mut &bytes[..], bytes.len() as u64) else { return };
    for info in tensors {
        let Some(encoding) = info.encoding() else { continue };
        let n: usize = info.shape.iter().product();
        let stored = encoding.bytes(n as u64).expect("whole values");
        encoding.decode(&bytes[info.offset as usize..][..stored as usize], &mut vec![0.0; n]);
    }
});
