//! Which coder goes to which format: the table in `docs/formats.md`.

use super::*;

/// A `coder:` section of each kind, and how its rows are scaled.
fn kinds() -> Vec<(Value, RowScaling)> {
    let none = RowScaling::None;
    let json = |mut json: Value, rows| {
        json["width"] = json.get("width").cloned().unwrap_or(5.into());
        (json, rows)
    };
    vec![
        json(json!({"type": "topk", "k": 2}), none),
        json(json!({"type": "topk", "k": 2, "decoder": "ranked"}), none),
        json(json!({"type": "topk", "k": 2}), RowScaling::Standard),
        json(json!({"type": "batch_topk", "k": 2}), none),
        json(json!({"type": "matryoshka", "k": 2, "widths": [2]}), none),
        json(json!({"type": "standard", "l1_coefficient": 1}), none),
        json(json!({"type": "standard", "l1_coefficient": 1}), RowScaling::Norm),
        json(json!({"type": "p_anneal", "sparsity_coefficient": 1, "anneal_end_step": 20000}), none),
        json(json!({"type": "p_anneal", "sparsity_coefficient": 1, "anneal_end_step": 20000, "base": "gated"}), none),
        json(json!({"type": "feature_choice", "k": 2}), none),
        json(json!({"type": "top_afa"}), none),
        json(json!({"type": "group_max", "k": 5}), none),
        json(json!({"type": "nested_topk", "ks": [1, 2]}), none),
        json(json!({"type": "jumprelu", "l0_coefficient": 1}), none),
        json(json!({"type": "gated", "l1_coefficient": 1}), none),
        json(json!({"type": "archetypal", "k": 2, "points": 3}), none),
        json(json!({"type": "gba", "groups": 2}), none),
        json(json!({"type": "k_sparse", "k": 2}), none),
        json(json!({"type": "bilinear"}), none),
        json(json!({"type": "matching_pursuit", "k": 2}), none),
        json(json!({"type": "kron", "width": 6, "k": 2, "first": 1, "second": 2}), none),
        json(json!({"type": "switch", "width": 6, "k": 2, "experts": 2}), none),
    ]
}

/// What of those that reconstruct another site is of a form of its own.
fn transcoders() -> Vec<(Value, &'static str)> {
    let kinds = [
        json!({"type": "topk", "width": 5, "k": 2}),
        json!({"type": "group_max", "width": 5, "k": 5}),
        json!({"type": "batch_topk", "width": 5, "k": 2}),
        json!({"type": "standard", "width": 5, "l1_coefficient": 1}),
        json!({"type": "jumprelu", "width": 5, "l0_coefficient": 1}),
        json!({"type": "gated", "width": 5, "l1_coefficient": 1}),
    ];
    let skipping = [0, 3, 4].map(|i| (kinds[i].clone(), "transcoder, skip"));
    let across = [kinds[3].clone(), kinds[4].clone()].map(|kind| (kind, "cross_layer"));
    let crosscoder = (kinds[0].clone(), "crosscoder");
    kinds.into_iter().map(|kind| (kind, "transcoder")).chain(skipping).chain(across).chain([crosscoder]).collect()
}

/// The key of a configuration that says what a coder is there.
fn named(format: Format, files: &Files) -> String {
    if format == Format::CircuitTracer {
        let config = String::from_utf8(files.last().unwrap().1.clone()).unwrap();
        return config.lines().next().unwrap().trim_start_matches("model_kind: ").trim_matches('"').to_owned();
    }
    let config: Value = serde_json::from_slice(&files[0].1).unwrap();
    let name = match format {
        Format::Saelens => &config["architecture"],
        Format::Sparsify => &config["activation"],
        Format::DictionaryLearning => &config["trainer"]["dict_class"],
        Format::CircuitTracer => unreachable!("above"),
    };
    name.as_str().unwrap().to_owned()
}

/// The exported coder of a `coder:` section with a target; `None` where no format has it.
fn composed(json: &Value, target: &str) -> Option<ExportedCoder> {
    let backend = Cpu::new(1).unwrap();
    let settings = match target {
        "transcoder" => settings(json, 3).reading(3),
        "transcoder, skip" => settings(json, 3).reading(3).with_skip(),
        "cross_layer" => settings(json, 6).across_layers(3, 2),
        "crosscoder" => settings(json, 6).of_parts(vec![3, 3]),
        _ => settings(json, 3),
    };
    let (dims, median) = (settings.dims, vec![0.0; settings.dims.out]);
    let params = crate::sae::init::start(&backend, &settings, &mut Seed(1).stream("matrix"), median);
    let coder = Coder::new(&backend, settings, params, 1);
    let one = |width| vec![Part { width, scale: 1.0 }];
    let scales = Scales { input: one(dims.d * dims.groups), output: one(dims.out) };
    let about = match target {
        "cross_layer" => across(Standard, 2, 0).metadata,
        _ => transcoder(Standard, 3, 0, false).metadata,
    };
    ExportedCoder::new(&backend, &coder, &coder.params, &scales, about).ok()
}

fn matrix() -> String {
    let mut text = String::from("| `coder` | rows |");
    Format::ALL.iter().for_each(|format| text += &format!(" {} |", format.name()));
    text += "\n|---|---|";
    Format::ALL.iter().for_each(|_| text += "---|");
    text += "\n";
    let autoencoders = kinds().into_iter().map(|(json, rows)| (json, rows, ""));
    let others = transcoders().into_iter().map(|(json, target)| (json, RowScaling::None, target));
    for (json, rows, target) in autoencoders.chain(others) {
        let exported = composed(&json, target).map(|exported| ExportedCoder { rows, ..exported });
        let word = |key: &str| json.get(key).map_or(String::new(), |d| format!(", {key}: {}", d.as_str().unwrap()));
        let decoder = word("decoder") + &word("base");
        let target = if target.is_empty() { String::new() } else { format!(", `target: {target}`") };
        let rows = match rows {
            RowScaling::None => "one scale",
            RowScaling::Norm => "`row_norm`",
            RowScaling::Standard => "`layer_norm`",
        };
        text += &format!("| `type: {}{decoder}`{target} | {rows} |", json["type"].as_str().unwrap());
        for format in Format::ALL {
            let files = exported.as_ref().and_then(|exported| format.write(exported).unwrap());
            let name = files.map_or("-".to_owned(), |files| format!("`{}`", named(format, &files)));
            text += &format!(" {name} |");
        }
        text += "\n";
    }
    text
}

/// Every type that a pipeline can name is in the table.
#[test]
fn the_matrix_has_every_type() {
    let schema = serde_json::to_value(schemars::schema_for!(CoderConfig)).unwrap();
    let types = schema["oneOf"].as_array().unwrap().iter().map(|one| one["properties"]["type"]["const"].clone());
    let listed: Vec<Value> = kinds().into_iter().map(|(json, _)| json["type"].clone()).collect();
    let missing: Vec<Value> = types.filter(|name| !listed.contains(name)).collect();
    assert!(missing.is_empty(), "add to `kinds`: {missing:?}");
}

/// Run with `UPDATE_DOCS=1` to write the table.
#[test]
fn the_matrix_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- matrix -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /matrix -->").unwrap();
    let current = format!("{before}<!-- matrix -->\n{}<!-- /matrix -->{after}", matrix());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == current,
        "docs/formats.md is out of date: UPDATE_DOCS=1 cargo test --release --lib sae::formats"
    );
}
