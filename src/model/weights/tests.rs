use ::safetensors::tensor::{Dtype, TensorView};

use super::*;

use crate::error::ErrorKind;
use half::bf16;

fn file(folder: &tempfile::TempDir, name: &str, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> PathBuf {
    let path = folder.path().join(name);
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    ::safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn every_dtype_widens_exactly_and_prefixes_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let n = 5000; // more than one block
    let halves: Vec<u8> = (0..n).flat_map(|i| half::f16::from_f32((i % 2000) as f32 / 8.0).to_le_bytes()).collect();
    let brains: Vec<u8> = (0..n).flat_map(|i| half::bf16::from_f32((i % 256) as f32).to_le_bytes()).collect();
    let a = file(&folder, "a", &[("model.x", Dtype::F32, vec![2, 3], f32_bytes(&[1., 2., 3., 4., 5., 6.]))]);
    let b = file(&folder, "b", &[("transformer.y", Dtype::F16, vec![n], halves), ("z", Dtype::BF16, vec![n], brains)]);
    let mut weights = Weights::open(&[a, b]).unwrap();
    assert_eq!(weights.transposed("x", 3, 2), [1., 4., 2., 5., 3., 6.]);
    assert!(weights.tensor("y", &[n]).into_iter().eq((0..n).map(|i| (i % 2000) as f32 / 8.0)));
    assert!(weights.tensor("z", &[n]).into_iter().eq((0..n).map(|i| (i % 256) as f32)));
    weights.finish(|_| false).unwrap();
}

#[test]
fn all_misfits_are_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let one = || f32_bytes(&[1.0]);
    let path = file(
        &folder,
        "w",
        &[
            ("shape", Dtype::F32, vec![1], one()),
            ("dtype", Dtype::I32, vec![1], one()),
            ("extra", Dtype::F32, vec![1], one()),
            ("buffer", Dtype::F32, vec![1], one()),
        ],
    );
    let mut weights = Weights::open(&[path]).unwrap();
    assert!(weights.tensor("shape", &[2]).is_empty());
    assert!(weights.tensor("dtype", &[1]).is_empty());
    assert!(weights.tensor("missing", &[1]).is_empty());
    let e = weights.finish(|name| name == "buffer").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
    for word in ["`shape` has shape [1]", "I32", "`missing` [1] is missing", "`extra` [1] is not part"] {
        assert!(e.to_string().contains(word), "{word}: {e}");
    }
    assert!(!e.to_string().contains("buffer"), "{e}");
}

#[test]
fn broken_files_are_data_errors() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(&folder, "good", &[("x", Dtype::F32, vec![4], f32_bytes(&[1., 2., 3., 4.]))]);
    let bytes = std::fs::read(&good).unwrap();
    for len in [0, 4, 20, bytes.len() - 1] {
        let path = folder.path().join(format!("cut-{len}"));
        std::fs::write(&path, &bytes[..len]).unwrap();
        let e = Weights::open(&[path]).err().expect("a cut file is refused");
        assert!(e.to_string().contains("cut-"), "{e}");
    }
    let twice = file(&folder, "twice", &[("model.x", Dtype::F32, vec![1], f32_bytes(&[1.0]))]);
    assert!(Weights::open(&[good, twice]).err().unwrap().to_string().contains("twice"));
    assert_eq!(Weights::open(&[folder.path().join("none")]).err().unwrap().kind(), ErrorKind::Data);
}

fn open(folder: &tempfile::TempDir, name: &str, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Weights {
    Weights::open(&[file(folder, name, tensors)]).unwrap()
}

/// Blocks of 128 x 128 with an incomplete last row and column, factors for each row, and one factor.
#[test]
fn eight_bit_weights_are_multiplied_by_their_factors() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, columns) = (130, 257);
    let codes: Vec<u8> = (0..rows * columns).map(|i| (i % 120) as u8).collect();
    let mut plain = vec![0.0; codes.len()];
    Encoding::F8E4M3.decode(&codes, &mut plain);
    let matrix = |name| (name, Dtype::F8_E4M3, vec![rows, columns], codes.clone());
    let bf16s = |values: &[f32]| values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect::<Vec<u8>>();
    let by_row: Vec<f32> = (0..rows).map(|row| row as f32 + 0.25).collect();
    let mut weights = open(
        &folder,
        "fp8",
        &[
            matrix("a.weight"),
            ("a.weight_scale_inv", Dtype::BF16, vec![2, 3], bf16s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
            matrix("b.weight"),
            ("b.weight_scale", Dtype::F32, vec![rows, 1], f32_bytes(&by_row)),
            ("b.input_scale", Dtype::F32, vec![1], f32_bytes(&[9.0])),
            matrix("c.weight"),
            ("c.weight_scale", Dtype::F32, vec![1], f32_bytes(&[0.3])),
            matrix("d.weight"),
            matrix("e.weight"),
            ("e.weight_scale", Dtype::F32, vec![7], f32_bytes(&[1.0; 7])),
        ],
    );
    let wanted = |factor: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        plain.iter().enumerate().map(|(i, x)| x * factor(i / columns, i % columns)).collect()
    };
    let shape = [rows, columns];
    assert_eq!(weights.tensor("a.weight", &shape), wanted(&|r, c| (1 + r / 128 * 3 + c / 128) as f32));
    assert_eq!(weights.tensor("b.weight", &shape), wanted(&|r, _| r as f32 + 0.25));
    assert_eq!(weights.tensor("c.weight", &shape), wanted(&|_, _| 0.3));
    assert!(weights.tensor("d.weight", &shape).is_empty() && weights.tensor("e.weight", &shape).is_empty());
    let error = weights.finish(|_| false).unwrap_err().to_string();
    assert!(error.contains("`d.weight`") && error.contains("F8_E4M3 without scales"), "{error}");
    assert!(error.contains("`e.weight`") && error.contains("scales of shape [7]"), "{error}");
    assert!(!error.contains("input_scale"), "{error}");
}

#[test]
fn quantizations_that_cannot_be_read_are_named() {
    let fp8 = |key: &str, value: serde_json::Value| {
        let mut config = serde_json::json!({"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
            "weight_block_size": [128, 128]});
        config[key] = value;
        config
    };
    let group = |bits: u32, strategy: &str| {
        serde_json::json!({"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "input_activations": null,
            "weights": {"num_bits": bits, "type": "float", "strategy": strategy}}}})
    };
    for good in [fp8("fmt", "e4m3".into()), fp8("weight_block_size", serde_json::Value::Null), group(8, "channel")] {
        check_quantization(&good).unwrap();
    }
    for (bad, word) in [
        (fp8("weight_block_size", serde_json::json!([64, 128])), "weight_block_size` ([64,128])"),
        (fp8("fmt", "e5m2".into()), "fmt"),
        (fp8("quant_method", "gptq".into()), "quant_method` (\"gptq\")"),
        (group(4, "channel"), "config_groups.group_0.weights"),
        (group(8, "group"), "config_groups.group_0.weights"),
        (serde_json::json!({"bits": 4}), "quant_method"),
        (serde_json::json!([]), "quantization_config"),
    ] {
        let error = check_quantization(&bad).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// The file is cut after its header was read: an error, where a map would be a signal.
#[test]
fn a_file_that_shrinks_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "w", &[("x", Dtype::F32, vec![1000], f32_bytes(&[1.0; 1000]))]);
    let mut weights = Weights::open(std::slice::from_ref(&path)).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2000).unwrap();
    assert!(weights.tensor("x", &[1000]).is_empty());
    let error = weights.finish(|_| false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("read tensor `x`"), "{error}");
}

/// A safetensors file with this header and as many bytes of data.
fn raw(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn hostile_safetensors_headers_are_refused() {
    let read = |bytes: &[u8]| safetensors::read_header(&mut &bytes[..], bytes.len() as u64);
    let tensor = |dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let one = |dtype: &str, shape: &str, begin, end| format!(r#"{{"t":{}}}"#, tensor(dtype, shape, begin, end));
    let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
    let f32s = |begin, end| tensor("F32", "[2]", begin, end);
    let max = u64::MAX;
    for (header, data, word) in [
        (one("F32", "[2]", 0, 4), 4, "4 bytes for"),
        (one("F32", "[2]", 0, 8), 7, "the file has"),
        (one("F32", "[2]", 0, 8), 9, "the file has"),
        (one("F32", "[2]", 4, 12), 12, "do not follow"),
        (one("F32", "[2]", 8, 0), 8, "do not follow"),
        (one("F32", "[4611686018427387904,4]", 0, 0), 0, "0 bytes for"),
        (one("F32", "[18446744073709551615,18446744073709551615]", 0, 8), 8, "8 bytes for"),
        (one("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4), 4, "too many dimensions"),
        (one("F32", "[-1]", 0, 4), 4, "parse"),
        (one("F128", "[1]", 0, 16), 16, "type `F128` is unknown"),
        (one("U8", "[18446744073709551615]", 0, max), 8, "bytes for"),
        (two(f32s(0, 8), f32s(0, 8)), 8, "do not follow"),
        (two(f32s(0, 8), f32s(4, 12)), 12, "do not follow"),
        (two(f32s(0, 8), f32s(16, 24)), 24, "do not follow"),
        (format!(r#"{{"t":{0},"t":{0}}}"#, f32s(0, 8)), 8, "twice"),
        ("[".repeat(100_000), 0, "parse"),
        (format!(r#"{{"__metadata__":{}"#, "[".repeat(100_000)), 0, "parse"),
        ("{".to_owned(), 0, "parse"),
    ] {
        let error = read(&raw(&header, data)).expect_err(word).to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    for length in [max, 100_000_001, 9] {
        let bytes = [&length.to_le_bytes()[..], b"{}      "].concat();
        assert!(read(&bytes).unwrap_err().to_string().contains("says that its header"));
    }
    let good = raw(&two(f32s(0, 8), tensor("F32", "[0]", 8, 8)), 8);
    assert_eq!(read(&good).unwrap().len(), 2);
    for len in 0..good.len() {
        assert!(read(&good[..len]).is_err(), "cut to {len} bytes");
    }
}
