use serde_json::{Value, json};

use super::*;

fn llama_config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 160,
        "intermediate_size": 80, "rope_theta": 500000.0, "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1,
    })
}

fn gpt2_config() -> Value {
    json!({"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 160, "n_positions": 64})
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

fn refusal(config: &Value) -> String {
    ModelSpec::parse(config).expect_err("is refused").to_string()
}

#[test]
fn reads_llama_with_its_defaults() {
    let spec = ModelSpec::parse(&llama_config()).unwrap();
    assert_eq!((spec.n_kv_heads, spec.d_head, spec.norm.eps, spec.tied_head), (4, 8, 1e-6, false));
    assert_eq!(spec.ropes, [Rope { theta: 5e5, rotary: 8, scaling: RopeScaling::Default }]);
    assert_eq!((spec.bos, spec.eos, spec.pad), (Some(1), vec![2, 3], None));
}

#[test]
fn reads_gpt2_with_its_defaults() {
    let spec = ModelSpec::parse(&gpt2_config()).unwrap();
    assert_eq!((spec.d_mlp, spec.max_positions, spec.tied_head, spec.has_learned_positions()), (128, 64, true, true));
}

#[test]
fn old_and_new_rope_settings_mean_the_same() {
    let scaling = json!({"type": "linear", "factor": 4.0});
    let old = with(llama_config(), "rope_scaling", scaling);
    let mut new = llama_config();
    new.as_object_mut().unwrap().remove("rope_theta");
    let new = with(new, "rope_parameters", json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}));
    assert_eq!(ModelSpec::parse(&old).unwrap(), ModelSpec::parse(&new).unwrap());

    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let spec = ModelSpec::parse(&with(llama_config(), "rope_scaling", llama3)).unwrap();
    assert!(matches!(spec.ropes[0].scaling, RopeScaling::Llama3 { original_positions: 8192.0, .. }));
}

#[test]
fn refuses_what_it_does_not_compute_and_names_it() {
    let llama = |key: &str, value: Value| (with(llama_config(), key, value), key.to_owned());
    let gpt2 = |key: &str, value: Value| (with(gpt2_config(), key, value), key.to_owned());
    for (config, named) in [
        llama("model_type", json!("mamba")),
        llama("sliding_window", json!(4096)),
        llama("attn_logit_softcapping", json!(50.0)),
        llama("final_logit_softcapping", json!(30.0)),
        llama("hidden_act", json!("gelu")),
        llama("partial_rotary_factor", json!(0.5)),
        llama("rope_interleaved", json!(true)),
        llama("is_causal", json!(false)),
        llama("output_gate", json!(true)),
        llama("attention_sink_size", json!(4)),
        llama("rope_theta", json!(1.0)),
        (
            with(
                with(llama_config(), "rope_scaling", json!({"type": "linear", "factor": 4.0})),
                "rope_parameters",
                json!({}),
            ),
            "rope_scaling".to_owned(),
        ),
        (
            with(llama_config(), "rope_parameters", json!({"partial_rotary_factor": 0.5})),
            "rope_parameters.partial_rotary_factor".to_owned(),
        ),
        (
            with(
                llama_config(),
                "rope_scaling",
                json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}),
            ),
            "low_freq_factor".to_owned(),
        ),
        llama("quantization_config", json!({"bits": 4})),
        llama("layer_types", json!(["sliding_attention", "full_attention"])),
        llama("num_key_value_heads", json!(3)),
        llama("head_dim", json!(7)),
        llama("hidden_size", json!(0)),
        llama("hidden_size", json!("32")),
        llama("hidden_size", json!(1u64 << 40)),
        llama("num_hidden_layers", json!(100_000)),
        llama("rms_norm_eps", json!(-1.0)),
        llama("attention_bias", json!("yes")),
        llama("eos_token_id", json!("</s>")),
        llama("rope_scaling", json!("linear")),
        (with(llama_config(), "rope_scaling", json!({"rope_type": "longrope", "factor": 2.0})), "rope_type".to_owned()),
        (with(llama_config(), "rope_scaling", json!({"type": "linear"})), "rope_scaling.factor".to_owned()),
        (with(llama_config(), "rope_scaling", json!({"rope_type": "default", "mscale": 2.0})), "mscale".to_owned()),
        (with(llama_config(), "rope_parameters", json!({"full_attention": {}})), "full_attention".to_owned()),
        gpt2("activation_function", json!("tanh")),
        gpt2("scale_attn_weights", json!(false)),
        gpt2("scale_attn_by_inverse_layer_idx", json!(true)),
        gpt2("add_cross_attention", json!(true)),
        gpt2("n_embd", json!(33)),
    ] {
        let message = refusal(&config);
        // the width is named by its value where two options disagree
        assert!(message.contains(&named) || message.contains("33"), "`{named}` is not named in: {message}");
    }
    assert!(refusal(&json!([])).contains("object"));
    let mut config = llama_config();
    config.as_object_mut().unwrap().remove("vocab_size");
    assert!(refusal(&config).contains("`vocab_size` is missing"));
}

#[test]
fn an_unknown_architecture_is_named_with_those_that_exist() {
    let message = refusal(&json!({"model_type": "mamba"}));
    for word in ["mamba", "llama", "gpt2"] {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn options_that_change_nothing_are_accepted() {
    let config = with(llama_config(), "sliding_window", Value::Null);
    let config = with(config, "rope_interleaved", json!(false));
    let config = with(config, "partial_rotary_factor", json!(1.0));
    let config = with(config, "layer_types", json!(["full_attention", "full_attention"]));
    assert_eq!(ModelSpec::parse(&config).unwrap(), ModelSpec::parse(&llama_config()).unwrap());
    let unused_window = with(with(llama_config(), "sliding_window", json!(4096)), "use_sliding_window", json!(false));
    assert!(ModelSpec::parse(&unused_window).is_ok());
}

#[test]
fn points_are_in_forward_order_with_their_widths() {
    let spec = ModelSpec::parse(&with(llama_config(), "num_key_value_heads", json!(2))).unwrap();
    let points = spec.points(10);
    assert!(points.is_sorted_by_key(|shape| shape.point.forward_order()));
    let width = |name: &str| {
        points.iter().find(|shape| shape.point.to_string() == name).map(|shape| (shape.width, shape.heads))
    };
    assert_eq!(width("hook_embed"), Some((32, 1)));
    assert_eq!(width("blocks.1.attn.hook_rot_k"), Some((16, 2)));
    assert_eq!(width("blocks.1.attn.hook_pattern"), Some((40, 4)));
    assert_eq!(width("blocks.0.mlp.hook_pre_linear"), Some((80, 1)));
    assert_eq!(width("hook_pos_embed"), None);
    let gpt2 = ModelSpec::parse(&gpt2_config()).unwrap().points(10);
    assert!(gpt2.iter().all(|shape| !matches!(shape.point.site, Site::RotQ | Site::RotK | Site::MlpPreLinear)));
    assert!(gpt2.iter().any(|shape| shape.point.site == Site::PosEmbed));
}
