"""Tiny models with random weights, each as Hugging Face saves it and as a GGUF file: write_gguf.py FOLDER

Names of tensors are those of the `gguf` package's tables; what llama.cpp's converter does to values is done here. For the
architectures that transformers itself reads from GGUF, FOLDER/NAME.transformers.safetensors is what it makes of the file.
"""
import json
import os
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, CONFIG_MAPPING

OUT = sys.argv[1]
VOCAB = 96
COMMON = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1, pad_token_id=None,
)
HEADS = dict(head_dim=16)
ROPE = dict(rope_parameters=dict(rope_type="default", rope_theta=500000.0))
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)
SMALL = {key: COMMON[key] for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
GEMMA3_ROPE = dict(
    full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
    sliding_attention=dict(rope_type="default", rope_theta=10000.0),
)

# name: (model_type, GGUF's architecture, options)
MODELS = {
    "llama": ("llama", "llama", COMMON | HEADS | ROPE),
    "llama_tied": ("llama", "llama", COMMON | HEADS | dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "llama_bias": ("llama", "llama", COMMON | dict(attention_bias=True, mlp_bias=True) | ROPE),
    "llama_yarn": ("llama", "llama", COMMON | dict(rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32))),
    "mixtral": ("mixtral", "llama", COMMON | HEADS | ROPE | dict(num_local_experts=4, num_experts_per_tok=2)),
    "qwen2": ("qwen2", "qwen2", COMMON | ROPE),
    # transformers reads no width of a head here and takes its default
    "qwen3": ("qwen3", "qwen3", COMMON | dict(head_dim=128) | ROPE | dict(tie_word_embeddings=True)),
    "qwen3_moe": ("qwen3_moe", "qwen3moe", COMMON | HEADS | ROPE | dict(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True)),
    "gemma": ("gemma", "gemma", COMMON | HEADS | dict(hidden_act="gelu_pytorch_tanh")),
    "gemma2": ("gemma2", "gemma2", COMMON | HEADS | dict(sliding_window=8, query_pre_attn_scalar=16)),
    "gemma3": ("gemma3_text", "gemma3", COMMON | HEADS | dict(
        sliding_window=8, query_pre_attn_scalar=16, num_hidden_layers=7, rope_parameters=GEMMA3_ROPE)),
    "olmo2": ("olmo2", "olmo2", COMMON | ROPE),
    "phi": ("phi", "phi2", COMMON | dict(num_key_value_heads=4, rope_parameters=dict(
        rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5))),
    "gpt_neox": ("gpt_neox", "gptneox", {k: v for k, v in COMMON.items() if k != "num_key_value_heads"} | dict(
        use_parallel_residual=False,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25))),
    "gpt2": ("gpt2", "gpt2", SMALL | dict(n_embd=32, n_head=4, n_layer=2, n_positions=1024)),
}
# transformers reads these itself (and "llama" without its scaling, which it does not look for)
REFERENCE = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"]


def save(name, model_type, options):
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    folder = os.path.join(OUT, name)
    model.save_pretrained(folder)
    return AutoConfig.from_pretrained(folder), load_file(os.path.join(folder, "model.safetensors"))


def convert(arch, config, name, tensor):
    """The values of a Hugging Face tensor as llama.cpp's converter stores them."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if arch == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
        n = heads if "q_proj" in name else kv_heads
        return tensor.reshape(n, 2, tensor.shape[0] // n // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    if arch.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if arch == "gptneox" and "query_key_value" in name:
        per_head = tensor.reshape(heads, 3, tensor.shape[0] // heads // 3, *tensor.shape[1:])
        return per_head.swapaxes(0, 1).reshape(tensor.shape)
    if arch == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return tensor.T
    return tensor


def write(name, arch, config, tensors):
    writer = gguf.GGUFWriter(os.path.join(OUT, f"{name}.gguf"), arch)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    writer.add_head_count(heads)
    if arch not in ("gpt2", "gptneox"):
        writer.add_head_count_kv(config.num_key_value_heads)
    if arch in ("gpt2", "gptneox", "phi2"):
        writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or config.layer_norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        if hasattr(config, "head_dim"):
            writer.add_key_length(width)
            writer.add_value_length(width)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if rope:
        writer.add_rope_freq_base(rope["rope_theta"])
        if not arch.startswith("gemma"):
            writer.add_rope_dimension_count(int(width * rope.get("partial_rotary_factor", 1.0)))
        if rope["rope_type"] in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if arch == "gptneox":
        writer.add_parallel_residual(config.use_parallel_residual)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if arch in ("gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if arch == "qwen3moe":
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token{i}" for i in range(VOCAB)])
    writer.add_token_types([1] * VOCAB)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)

    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    stacked = {}
    for hf_name, tensor in tensors.items():
        stem, kind = hf_name.rsplit(".", 1)
        values = convert(arch, config, hf_name, tensor.numpy())
        parts = stem.split(".")
        if "experts" in parts:
            at = parts.index("experts")
            number = int(parts.pop(at + 1))
            stem = names.get_name(".".join(parts))
            assert stem, hf_name
            stacked.setdefault(f"{stem}.{kind}", {})[number] = values
        else:
            stem = names.get_name(stem)
            assert stem, hf_name
            writer.add_tensor(f"{stem}.{kind}", np.ascontiguousarray(values))
    for gguf_name, experts in stacked.items():
        writer.add_tensor(gguf_name, np.stack([experts[i] for i in range(len(experts))]))
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, width))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama3_factors(rope, width):
    frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
    positions, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    factors = []
    for wavelength in (2 * torch.pi / frequencies).tolist():
        smooth = min(max((positions / wavelength - low) / (high - low), 0.0), 1.0)
        factors.append(1.0 / ((1.0 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


for name, (model_type, arch, options) in MODELS.items():
    config, tensors = save(name, model_type, options)
    write(name, arch, config, tensors)
    if name in REFERENCE:
        model = AutoModelForCausalLM.from_pretrained(OUT, gguf_file=f"{name}.gguf", dtype=torch.float32)
        state = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
        save_file(state, os.path.join(OUT, f"{name}.transformers.safetensors"))
    print(name, len(tensors), json.dumps(config.to_dict().get("model_type")))
