#!/usr/bin/env python3
"""Make the golden models: tiny random Hugging Face models, and what transformers computes with them at every site.

    make_golden.py [OUT [NAME...]]        (default: every model, to tests/fixtures/golden)

For each model writes OUT/NAME/config.json and model.safetensors as published on the hub, OUT/NAME/config.old.json (the same
model as transformers 4 spelled it, where that differs) and OUT/NAME.golden.safetensors. f32 on the CPU, eager attention, eager
experts, one thread, fixed seeds: the same bytes from run to run on one machine; another kind of processor rounds otherwise,
by about 5e-7. tests/fixtures/golden/README.md says what is in them.

Every definition that the file relies on is checked here, for every layer: see `check_block` and `check_experts`.
"""
import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

V, B, T = 160, 2, 24
OUT = Path(__file__).resolve().parent.parent / "fixtures" / "golden"


# === models ===


def rope(theta=10000.0, rope_type="default", **more):
    return dict(rope_theta=theta, rope_type=rope_type, **more)


IDS = dict(vocab_size=V, bos_token_id=0, eos_token_id=1, pad_token_id=None, initializer_range=0.02)
# The first models have an MLP of 80, the later ones of 48, to keep the files small.
WIDE = dict(IDS, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128)
SLIM = dict(WIDE, intermediate_size=48, rope_parameters=rope(), tie_word_embeddings=False)
NO_DROPOUT = dict(resid_pdrop=0.0, embd_pdrop=0.0)
ALTERNATING = ["sliding_attention", "full_attention"]
EXPERTS = dict(moe_intermediate_size=24, num_experts_per_tok=2, decoder_sparse_step=1)

# name: (seed of the weights, model_type, config). The seeds of mixtures of experts are such that bf16 chooses the same experts.
MODELS = {
    "gpt2": (2000, "gpt2", dict(
        IDS, **NO_DROPOUT, n_embd=32, n_head=4, n_layer=2, n_positions=64, n_inner=None, attn_pdrop=0.0)),
    "gpt_neox": (2001, "gpt_neox", dict(
        IDS, hidden_size=48, num_attention_heads=3, num_hidden_layers=2, intermediate_size=96, max_position_embeddings=128,
        hidden_act="gelu", use_parallel_residual=True, rope_parameters=rope(partial_rotary_factor=0.25),
        tie_word_embeddings=False)),
    "gpt_neox_seq": (2002, "gpt_neox", dict(
        IDS, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=96, max_position_embeddings=128,
        hidden_act="gelu", use_parallel_residual=False, rope_parameters=rope(partial_rotary_factor=1.0),
        tie_word_embeddings=False)),
    "llama": (2003, "llama", dict(WIDE, rms_norm_eps=1e-5, rope_parameters=rope(), tie_word_embeddings=False)),
    "llama3_rope": (2004, "llama", dict(
        WIDE, head_dim=16, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=64))),
    "llama_mha_bias": (2005, "llama", dict(
        WIDE, num_key_value_heads=4, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-6,
        rope_parameters=rope(rope_type="linear", factor=4.0), tie_word_embeddings=False)),
    "mistral": (2006, "mistral", dict(
        WIDE, head_dim=16, sliding_window=8, rms_norm_eps=1e-5, rope_parameters=rope(), tie_word_embeddings=False)),
    "qwen2": (2007, "qwen2", dict(
        WIDE, rms_norm_eps=1e-6, rope_parameters=rope(1000000.0), tie_word_embeddings=True, use_sliding_window=False)),
    "qwen3": (2008, "qwen3", dict(
        WIDE, head_dim=16, rms_norm_eps=1e-6, rope_parameters=rope(1000000.0), tie_word_embeddings=True,
        use_sliding_window=False)),
    "gemma2": (2009, "gemma2", dict(
        WIDE, head_dim=16, query_pre_attn_scalar=12, sliding_window=8, attn_logit_softcapping=5.0,
        final_logit_softcapping=10.0, rms_norm_eps=1e-6, rope_parameters=rope(), hidden_activation="gelu_pytorch_tanh",
        tie_word_embeddings=True, layer_types=ALTERNATING)),
    "gemma3": (2010, "gemma3_text", dict(
        WIDE, head_dim=16, query_pre_attn_scalar=12, sliding_window=8, rms_norm_eps=1e-6,
        hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, layer_types=ALTERNATING,
        rope_parameters={"sliding_attention": rope(), "full_attention": rope(1000000.0, "linear", factor=8.0)})),
    "phi": (2011, "phi", dict(
        WIDE, **NO_DROPOUT, num_key_value_heads=4, hidden_act="gelu_new", tie_word_embeddings=False,
        rope_parameters=rope(partial_rotary_factor=0.5))),
    "gpt_neo": (2012, "gpt_neo", dict(
        IDS, hidden_size=32, num_heads=4, num_layers=2, intermediate_size=96, window_size=8, max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]], activation_function="gelu_new", resid_dropout=0.0, embed_dropout=0.0,
        attention_dropout=0.0)),
    "gemma": (2013, "gemma", dict(SLIM, head_dim=16, num_key_value_heads=1, rms_norm_eps=1e-6, tie_word_embeddings=True)),
    "olmo2": (2014, "olmo2", dict(SLIM, rms_norm_eps=1e-6)),
    "llama_yarn": (2015, "llama", dict(
        SLIM, max_position_embeddings=64, rope_parameters=rope(
            100.0, "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.5))),
    "llama_dynamic": (2016, "llama", dict(SLIM, max_position_embeddings=16, rope_parameters=rope(rope_type="dynamic", factor=2.0))),
    "qwen2_window": (2017, "qwen2", dict(SLIM, use_sliding_window=True, sliding_window=8, max_window_layers=1)),
    "phi_qk": (2018, "phi", dict(
        SLIM, **NO_DROPOUT, num_key_value_heads=4, hidden_act="gelu_new", rope_parameters=rope(partial_rotary_factor=0.5),
        qk_layernorm=True)),
    "mixtral": (2995, "mixtral", dict(
        SLIM, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, sliding_window=None)),
    "qwen2_moe": (2165, "qwen2_moe", dict(
        SLIM, **EXPERTS, num_experts=4, norm_topk_prob=False, shared_expert_intermediate_size=40)),
    "qwen3_moe": (2584, "qwen3_moe", dict(
        SLIM, **EXPERTS, head_dim=16, num_experts=6, norm_topk_prob=True, mlp_only_layers=[0])),
}

# Where things are, from the decoder layer; `embed`, `final` and `layers` from the model.
GPT2 = dict(layers="transformer.h", embed="transformer.wte", positions="transformer.wpe", final="transformer.ln_f",
            ln1="ln_1", ln2="ln_2", o="attn.c_proj", fc="mlp.c_fc", down="mlp.c_proj")
LLAMA = dict(layers="model.layers", embed="model.embed_tokens", final="model.norm",
             ln1="input_layernorm", ln2="post_attention_layernorm", q="self_attn.q_proj", k="self_attn.k_proj",
             o="self_attn.o_proj", mlp="mlp", gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj")
QK_NORM = dict(q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")
GEMMA2 = dict(LLAMA, post1="post_attention_layernorm", ln2="pre_feedforward_layernorm", post2="post_feedforward_layernorm")
PLACES = {
    "gpt2": GPT2,
    "gpt_neo": dict(GPT2, o="attn.attention.out_proj"),
    "gpt_neox": dict(layers="gpt_neox.layers", embed="gpt_neox.embed_in", final="gpt_neox.final_layer_norm",
                     ln1="input_layernorm", ln2="post_attention_layernorm", qkv="attention.query_key_value",
                     o="attention.dense", fc="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h"),
    "phi": dict(layers="model.layers", embed="model.embed_tokens", final="model.final_layernorm", ln1="input_layernorm",
                q="self_attn.q_proj", k="self_attn.k_proj", q_norm="self_attn.q_layernorm", k_norm="self_attn.k_layernorm",
                o="self_attn.dense", fc="mlp.fc1", down="mlp.fc2"),
    "gemma2": GEMMA2,
    "gemma3_text": dict(GEMMA2, **QK_NORM),
    "olmo2": dict({k: v for k, v in LLAMA.items() if k not in ("ln1", "ln2")}, **QK_NORM,
                  post1="post_attention_layernorm", post2="post_feedforward_layernorm"),
    "qwen3": dict(LLAMA, **QK_NORM),
    "qwen3_moe": dict(LLAMA, **QK_NORM),
    **{name: LLAMA for name in ("llama", "mistral", "qwen2", "gemma", "mixtral", "qwen2_moe")},
}


def draw_weights(model, seed):
    """Larger weights than an untrained model has, so that attention is peaky and norms, biases and soft caps matter."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda p, std: torch.randn(p.shape, generator=generator) * std
    gemma = model.config.model_type.startswith("gemma")
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if p.ndim >= 2:
                embedding = any(part in name for part in ("wte", "wpe", "embed", "lm_head"))
                p.copy_(normal(p, 0.5 if embedding else 0.3))
            elif name.endswith("bias"):
                p.copy_(normal(p, 0.1))
            else:  # a norm's weight, which Gemma stores less one
                p.copy_(normal(p, 0.2) + (0.0 if gemma else 1.0))
    model.tie_weights()


def eager(config):
    """The plainest code for mixtures of experts too."""
    if getattr(config, "num_experts_per_tok", None):
        config._experts_implementation = "eager"
    return config


def load(folder, dtype=torch.float32):
    """A fresh model: dynamic rope keeps state between passes."""
    config = eager(AutoConfig.from_pretrained(folder))
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="eager").eval()


def save(folder, seed, model_type, config):
    """Write the model as it would be published (transformers splits experts into a tensor each); returns what it was."""
    config = eager(AutoConfig.for_model(model_type, **config))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    draw_weights(model, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(Path(scratch) / file, folder / file)
    return model


# === capture ===


class Recorder:
    """Copies of what modules read and wrote in one forward pass, by name."""

    def __init__(self, model):
        self.model = model
        self.config = model.config
        self.places = PLACES[model.config.model_type]
        self.layers = model.get_submodule(self.places["layers"])
        self.values = {}
        self.undo = []

    def put(self, name, value):
        assert name not in self.values, name
        self.values[name] = value.detach().clone()

    def find(self, place, layer=None):
        """The module, or None: the architecture, or this layer of it, has no such thing."""
        root = self.model if layer is None else self.layers[layer]
        try:
            return root.get_submodule(self.places[place])
        except (KeyError, AttributeError):
            return None

    def output(self, module, name, change=lambda x: x):
        if module is not None:
            hook = lambda _module, _args, out: self.put(name, change(out[0] if isinstance(out, tuple) else out))
            self.undo.append(module.register_forward_hook(hook).remove)

    def input(self, module, name):
        if module is not None:
            hook = lambda _module, args, kwargs: self.put(name, args[0] if args else kwargs["hidden_states"])
            self.undo.append(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def watch(self):
        self.output(self.find("embed"), "embed")
        self.output(self.find("positions"), "pos_embed")
        self.input(self.find("final"), "final_norm_in")
        self.output(self.find("final"), "final_norm_out")
        for layer in range(len(self.layers)):
            self.watch_stream(layer)
            self.watch_queries_and_keys(layer)
            self.watch_mlp(layer)
        self.watch_attention()

    def watch_stream(self, layer):
        at, find = f"layers.{layer}.", lambda place: self.find(place, layer)
        self.input(self.layers[layer], at + "resid_pre")
        self.output(self.layers[layer], at + "resid_post")
        self.output(find("ln1"), at + "attn_in")
        self.output(find("ln2"), at + "mlp_in")
        if not is_parallel(self.config):
            self.input(find("ln2") or find("mlp"), at + "resid_mid")
        self.input(find("o"), at + "z")
        # what is added to the stream is the output of the norm after attention or MLP, if there is one
        self.output(find("o"), at + ("attn_out_pre_norm" if find("post1") else "attn_out"))
        self.output(find("post1"), at + "attn_out")
        down = find("down") or find("mlp")
        self.output(down, at + ("mlp_out_pre_norm" if find("post2") else "mlp_out"))
        self.output(find("post2"), at + "mlp_out")

    def watch_queries_and_keys(self, layer):
        at, heads = f"layers.{layer}.", lambda x: x.view(B, T, -1, head_dim(self.config))
        for s in ("q", "k"):
            norm = self.find(s + "_norm", layer)
            self.output(self.find(s, layer), at + s + ("_proj" if norm else "_pre_rope"), heads)
            # the norm sees all heads as one row, [B, T, H, D] or [B, H, T, D]
            by_token = lambda x: heads(x) if x.ndim == 3 or x.shape[1] == T else x.transpose(1, 2)
            self.output(norm, at + s + "_pre_rope", by_token)
        part = lambda i: lambda x: x.view(B, T, self.config.num_attention_heads, -1).chunk(3, dim=-1)[i]
        self.output(self.find("qkv", layer), at + "q_pre_rope", part(0))
        self.output(self.find("qkv", layer), at + "k_pre_rope", part(1))

    def watch_mlp(self, layer):
        at, find = f"layers.{layer}.", lambda place: self.find(place, layer)
        self.output(find("gate") or find("fc"), at + "mlp_pre")
        self.output(find("up"), at + "mlp_pre_linear")
        self.input(find("down"), at + "mlp_hidden")
        if find("mlp") and hasattr(find("mlp"), "experts"):
            by_token = lambda x: x.view(B, T, -1)
            names = ("router_logits", "expert_weights", "expert_indices")

            def note(_module, _args, out):
                for name, x in zip(names, out, strict=True):
                    self.put(at + name, by_token(x))

            self.undo.append(find("mlp").gate.register_forward_hook(note).remove)

    def watch_attention(self):
        """q and k after rope (heads of k and v not repeated), v and the pattern, at the call of the kernel."""

        def note(layer, q, k, v, pattern):
            for name, x in (("q", q), ("k", k), ("v", v)):
                self.put(f"layers.{layer}.{name}", x.transpose(1, 2))
            self.put(f"layers.{layer}.pattern", pattern)

        if self.config.model_type == "gpt_neo":
            for layer, block in enumerate(self.layers):
                attention = block.attn.attention

                def wrapped(q, k, v, mask=None, layer=layer, kernel=attention._attn):
                    out, pattern = kernel(q, k, v, mask)
                    note(layer, q, k, v, pattern)
                    return out, pattern

                attention._attn = wrapped
            return
        module = importlib.import_module(type(self.model).__module__)
        kernel = module.eager_attention_forward

        def wrapped(block, q, k, v, mask, *args, **kwargs):
            out, pattern = kernel(block, q, k, v, mask, *args, **kwargs)
            note(block.layer_idx, q, k, v, pattern)
            return out, pattern

        module.eager_attention_forward = wrapped
        self.undo.append(lambda: setattr(module, "eager_attention_forward", kernel))


def is_parallel(config):
    """Whether attention and MLP read the same stream, which leaves no stream between them."""
    return config.model_type == "phi" or getattr(config, "use_parallel_residual", False)


def head_dim(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def capture(model, ids):
    """Everything that modules computed from `ids`, and the loss of each next token."""
    recorder = Recorder(model)
    recorder.watch()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    for undo in recorder.undo:
        undo()
    loss = -logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return {"input_ids": ids, "logits": logits, "loss_per_token": loss, "loss": loss.mean().reshape(1), **recorder.values}


# === what the model does not show, recomputed and checked ===


def close(a, b, what, atol=1e-5):
    assert torch.allclose(a, b, rtol=1e-5, atol=atol), f"{what}: {(a - b).abs().max()}"


def window(config, layer):
    """How many positions a token sees, itself among them; None if all before it."""
    if config.model_type == "gpt_neo":
        return config.window_size if config.attention_layers[layer] == "local" else None
    if config.model_type == "mistral":
        return config.sliding_window
    kinds = getattr(config, "layer_types", None)
    return config.sliding_window if kinds and kinds[layer] == "sliding_attention" else None


def visible(config, layer):
    distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
    return (distance >= 0) & (distance < (window(config, layer) or T))


def scores(config, q, k):
    """`[B, H, T, T]`, scaled and capped, not yet masked."""
    if config.model_type == "gpt_neo":
        scale = 1.0
    else:
        scale = getattr(config, "query_pre_attn_scalar", q.shape[-1]) ** -0.5
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    cap = getattr(config, "attn_logit_softcapping", None)
    return scores if cap is None else cap * torch.tanh(scores / cap)


def check_block(config, values, layer):
    """Adds `attn_scores`; asserts that names mean what the README says."""
    get = lambda name: values[f"layers.{layer}.{name}"]
    has = lambda name: f"layers.{layer}.{name}" in values
    close(get("resid_pre") + get("attn_out") + get("mlp_out"), get("resid_post"), "sum of the stream")
    if has("resid_mid"):
        close(get("resid_pre") + get("attn_out"), get("resid_mid"), "stream between attention and MLP")
    seen = visible(config, layer)
    s = scores(config, get("q"), get("k"))
    close(s.masked_fill(~seen, -torch.inf).softmax(-1), get("pattern"), "pattern of the scores")
    values[f"layers.{layer}.attn_scores"] = s * seen
    v = get("v").repeat_interleave(get("q").shape[2] // get("v").shape[2], dim=2)
    close(torch.einsum("bhqk,bkhd->bqhd", get("pattern"), v).reshape(B, T, -1), get("z"), "pattern applied to v")
    for name in ("q", "k") if has("q_pre_rope") else ():
        before, after = get(name + "_pre_rope"), get(name)
        assert before.shape == after.shape, f"{name}: {before.shape} and {after.shape}"
        # a rotation keeps lengths; yarn's attention factor is the same for all
        ratio = after.norm(dim=-1) / before.norm(dim=-1)
        close(ratio, ratio.mean().expand_as(ratio), f"lengths of {name}")
        assert (before[:, 1:] - after[:, 1:]).abs().max() > 0.1, f"{name} is not rotated"


def check_experts(model, values, layer):
    """Adds the chosen experts' insides, recomputed with the model's own weights; asserts that they add up to its output."""
    at, places = f"layers.{layer}.", PLACES[model.config.model_type]
    if at + "router_logits" not in values:
        return
    mlp = model.get_submodule(places["layers"])[layer].mlp
    x, indices, weights = values[at + "mlp_in"], values[at + "expert_indices"], values[at + "expert_weights"]
    with torch.no_grad():
        gate_up, down = mlp.experts.gate_up_proj[indices], mlp.experts.down_proj[indices]
        pre, linear = torch.einsum("btd,btkmd->btkm", x, gate_up).chunk(2, dim=-1)
        post = mlp.experts.act_fn(pre) * linear
        out = torch.einsum("btkm,btkdm->btkd", post, down)
        total = (out * weights[..., None]).sum(2)
        values.update({at + "expert_pre": pre, at + "expert_pre_linear": linear, at + "expert_post": post, at + "expert_out": out})
        if hasattr(mlp, "shared_expert"):
            shared = mlp.shared_expert
            pre, linear = shared.gate_proj(x), shared.up_proj(x)
            post = shared.act_fn(pre) * linear
            out, gate = shared.down_proj(post), mlp.shared_expert_gate(x).sigmoid()
            total = total + gate * out
            values.update({at + "shared_pre": pre, at + "shared_pre_linear": linear, at + "shared_post": post,
                           at + "shared_out": out, at + "shared_gate": gate})
    close(total, values[at + "mlp_out"], "sum of the experts")
    chosen = values[at + "router_logits"].topk(indices.shape[-1] + 1)
    assert torch.equal(chosen.indices[..., :-1], indices) and (weights.diff(dim=-1) < 0).all()
    assert chosen.values.diff(dim=-1).max() < -0.02, "rounding could change the choice of experts"
    sums = weights.sum(-1)
    normalized = getattr(model.config, "norm_topk_prob", True)
    assert (sums.allclose(torch.ones(()))) == normalized, sums


def add_bf16(folder, values, ids):
    """The last block's output of the same model in bf16; returns how far its worst token is from f32."""
    bf16 = capture(load(folder, torch.bfloat16), ids)
    for name in [name for name in values if name.endswith("expert_indices")]:
        assert torch.equal(bf16[name], values[name]), f"bf16 chooses other experts: draw {folder.name} from another seed"
    expected, actual = values["layers.1.resid_post"], bf16["layers.1.resid_post"].float()
    values["bf16.layers.1.resid_post"] = actual
    return ((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


# === the config as transformers 4 wrote it ===


def old_config(name, config):
    """What a folder published before transformers 5 says of the same model; None if there is no difference that matters."""
    model_type, ropes = config["model_type"], config.pop("rope_parameters", None)
    if ropes is None:
        return None
    for key in ("layer_types", "_sliding_window_pattern", "pretraining_tp", "is_decoder", "use_bidirectional_attention"):
        config.pop(key, None)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.3"
    if model_type == "gpt_neox":
        return dict(config, rotary_emb_base=int(ropes["rope_theta"]), rotary_pct=ropes["partial_rotary_factor"])
    if model_type == "gemma3_text":
        full, local = ropes["full_attention"], ropes["sliding_attention"]
        scaling = {key: full[key] for key in ("factor", "rope_type")}
        return dict(config, rope_theta=full["rope_theta"], rope_local_base_freq=local["rope_theta"], rope_scaling=scaling,
                    sliding_window_pattern=2)
    scaling = {key: value for key, value in ropes.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if scaling["rope_type"] != "llama3":
        scaling["type"] = scaling.pop("rope_type")
    config["rope_theta"] = ropes["rope_theta"]
    config["rope_scaling"] = None if scaling.get("type") == "default" else scaling
    if "partial_rotary_factor" in ropes:
        config["partial_rotary_factor"] = ropes["partial_rotary_factor"]
    if model_type == "gemma":  # the first releases said gelu and meant its approximation
        config.update(hidden_act="gelu", hidden_activation=None)
    if model_type == "gemma2":
        config["hidden_act"] = config["hidden_activation"]
    if model_type.startswith("gemma"):
        del config["tie_word_embeddings"]
    if model_type.startswith("qwen"):  # a window is named even where it is not used
        config.update(sliding_window=8, max_window_layers=1)
        config.pop("qkv_bias", None)
    if model_type == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    if name == "llama":  # the first Llama had no choice of these
        for key in ("rope_theta", "head_dim", "attention_bias", "attention_dropout", "mlp_bias"):
            del config[key]
    return config


def save_old_config(name, folder, logits, ids):
    config = old_config(name, json.loads((folder / "config.json").read_text()))
    if config is None:
        return
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(text)
        shutil.copyfile(folder / "model.safetensors", Path(scratch) / "model.safetensors")
        with torch.no_grad():
            actual = load(scratch)(input_ids=ids, use_cache=False).logits
    assert torch.equal(actual, logits), f"{name}: config.old.json is another model"
    (folder / "config.old.json").write_text(text)


# === files ===


def make(out, name):
    seed, model_type, config = MODELS[name]
    folder = out / name
    in_memory = save(folder, seed, model_type, config)
    ids = torch.randint(2, V, (B, T), generator=torch.Generator().manual_seed(7))
    model = load(folder)
    values = capture(model, ids)
    assert torch.equal(capture(in_memory, ids)["logits"], values["logits"]), "the folder is another model"
    for layer in range(2):
        check_block(model.config, values, layer)
        check_experts(model, values, layer)
    bf16_error = add_bf16(folder, values, ids)
    save_old_config(name, folder, values["logits"], ids)
    about = dict(model_type=model_type, transformers=transformers.__version__, torch=torch.__version__, batch=str(B), seq=str(T),
                 attn="eager", dtype="float32")
    file = out / f"{name}.golden.safetensors"
    save_file({name: x.contiguous() for name, x in values.items()}, file, metadata={"golden": json.dumps(about, sort_keys=True)})
    file.chmod(0o644)
    peak = values["layers.1.pattern"].amax(-1).mean().item()
    print(f"{name:15} {model_type:12} loss {values['loss'].item():.5f}  mean largest attention {peak:.2f}  bf16 error "
          f"{bf16_error:.4f}  tensors {len(values)}  {file.stat().st_size // 1024} KiB", flush=True)


def main():
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    for name in sys.argv[2:] or MODELS:
        make(out, name)


if __name__ == "__main__":
    main()
