"""SHA-256 of each tensor of a Llama GGUF file as the `gguf` package and transformers read it: hash_gguf.py FILE [MODEL]

Prints JSON: Hugging Face's names to digests of little-endian f32 values. With MODEL, a folder with the same model in
safetensors, checks that those are the same.
"""
import hashlib
import json
import os
import sys

import gguf
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

reader = gguf.GGUFReader(sys.argv[1])
field = lambda key: int(reader.fields[key].contents())
layers = field("llama.block_count")
processor = LlamaTensorProcessor(
    dict(num_attention_heads=field("llama.attention.head_count"), num_key_value_heads=field("llama.attention.head_count_kv"))
)
parts = (
    "input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj post_attention_layernorm "
    "mlp.gate_proj mlp.up_proj mlp.down_proj"
).split()
names = ["model.embed_tokens", "model.norm", "lm_head"]
names += [f"model.layers.{layer}.{part}" for layer in range(layers) for part in parts]
table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
hf = {table.get_name(name) + ".weight": name + ".weight" for name in names}
digests = {}
for tensor in reader.tensors:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    values = processor.process(values, tensor.name).weights
    digests[hf[tensor.name]] = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
if len(sys.argv) > 2:
    from safetensors.numpy import load_file

    model = load_file(os.path.join(sys.argv[2], "model.safetensors"))
    other = {name: hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() for name, values in model.items()}
    assert {name: digests[name] for name in other} == other and len(other) >= len(digests), "the models differ"
json.dump(digests, sys.stdout)
