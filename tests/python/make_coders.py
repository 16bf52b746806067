#!/usr/bin/env python3
"""Train and save coders with SAELens and sparsify, as their users do, and write what they compute.

    make_coders.py ROWS N D FOLDER

ROWS holds N rows of D raw f32 values. Transcoders of SAELens reconstruct OUT others. Each coder gets a folder below FOLDER with the files of its library, and in `out`, as raw
f32, its latents [N, d_sae] and then its reconstructions [N, D or OUT], computed in f32 by what the library loads again.
"""
import os
import sys

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # there is no GPU for its decoder

import numpy as np  # noqa: E402
import torch
from sae_lens import SAE
from sae_lens.saes import batchtopk_sae, gated_sae, jumprelu_sae, matryoshka_batchtopk_sae, standard_sae, topk_sae, transcoder
from sae_lens.saes.sae import TrainStepInput
from sae_lens.training.activation_scaler import ActivationScaler
from sparsify import SparseCoder, SparseCoderConfig

torch.set_num_threads(1)
torch.manual_seed(5)
rows_path, n, d, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rows = torch.from_numpy(np.fromfile(rows_path, dtype="<f4").reshape(n, d).copy())
LATENTS, STEPS, OUT = 96, 15, 20
MODULES = [batchtopk_sae, gated_sae, jumprelu_sae, matryoshka_batchtopk_sae, standard_sae, topk_sae]


def named(name):
    return next(getattr(m, name) for m in MODULES if hasattr(m, name))


def folder(name):
    return os.path.join(target, name)


def write(name, latents, out):
    values = torch.cat([latents.float().flatten(), out.float().flatten()]).detach().contiguous().numpy()
    values.astype("<f4").tofile(os.path.join(folder(name), "out"))


def train(name, **config):
    """A coder of SAELens' training class, some steps from random weights, decoder rows of different norms."""
    config = named(name + "Config")(d_in=d, d_sae=LATENTS, **config)
    config.metadata.hook_name, config.metadata.model_name = "blocks.0.hook_resid_post", "test"
    sae = named(name)(config)
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, LATENTS)[:, None]
        sae.b_dec += rows.mean(0)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    dead = torch.zeros(LATENTS, dtype=torch.bool)
    scale = 0.3 if config.normalize_activations == "expected_average_only_in" else 1.0
    for step in range(STEPS):
        given = TrainStepInput(scale * rows, {"l1": 0.1, "l0": 0.1}, dead, step, False)
        sae.training_forward_pass(given).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return sae


def record(name, inference, shape=(d,), load="float32"):
    """What SAELens computes with the folder `inference`, beside the files of the coder `name`."""
    sae = SAE.load_from_disk(folder(inference), dtype=load)
    with torch.no_grad():
        latents = sae.encode(rows.reshape(n, *shape))
        write(name, latents, sae.decode(latents))


KINDS = {
    "standard": ("StandardTrainingSAE", {}),
    "standard-unshifted": ("StandardTrainingSAE", {"apply_b_dec_to_input": False}),
    "standard-layer-norm": ("StandardTrainingSAE", {"normalize_activations": "layer_norm"}),
    "standard-norm": ("StandardTrainingSAE", {"normalize_activations": "constant_norm_rescale"}),
    "topk": ("TopKTrainingSAE", {"k": 6}),
    "topk-by-value": ("TopKTrainingSAE", {"k": 6, "rescale_acts_by_decoder_norm": False}),
    "batchtopk": ("BatchTopKTrainingSAE", {"k": 6}),
    "batchtopk-by-value": ("BatchTopKTrainingSAE", {"k": 6, "rescale_acts_by_decoder_norm": False}),
    "matryoshka": ("MatryoshkaBatchTopKTrainingSAE", {"k": 6, "matryoshka_widths": [16, 40, LATENTS]}),
    "jumprelu": ("JumpReLUTrainingSAE", {"jumprelu_init_threshold": 0.3}),
    "gated": ("GatedTrainingSAE", {}),
}
with torch.no_grad():
    scaler = ActivationScaler(0.3)
for name, (kind, config) in KINDS.items():
    sae = train(kind, **config)
    sae.save_inference_model(folder(name))
    record(name, name)
    # the form that training itself saves
    if "norm" not in name:
        sae.save_model(folder(name + "-in-training"))
        record(name + "-in-training", name)

# trained on scaled rows, the scale beside the weights
for name in ["standard", "batchtopk"]:
    kind, config = KINDS[name]
    sae = train(kind, normalize_activations="expected_average_only_in", **config)
    sae.save_model(folder(name + "-scaled-in-training"))
    scaler.save(os.path.join(folder(name + "-scaled-in-training"), "activation_scaler.json"))
    sae.fold_activation_norm_scaling_factor(0.3)
    sae.save_inference_model(folder(name + "-scaled"))
    record(name + "-scaled", name + "-scaled")
    record(name + "-scaled-in-training", name + "-scaled")

# half precision; the norms of the decoder's rows not folded in
for dtype in ["bfloat16", "float16"]:
    config = topk_sae.TopKSAEConfig(d_in=d, d_sae=LATENTS, k=6, dtype=dtype, rescale_acts_by_decoder_norm=True)
    sae = topk_sae.TopKSAE(config)
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, LATENTS, dtype=sae.dtype)[:, None]
    sae.save_model(folder("topk-" + dtype))
    record("topk-" + dtype, "topk-" + dtype)

# heads side by side
config = standard_sae.StandardSAEConfig(d_in=d, d_sae=LATENTS, reshape_activations="hook_z")
config.metadata.hook_name = "blocks.0.attn.hook_z"
standard_sae.StandardSAE(config).save_model(folder("standard-z"))
record("standard-z", "standard-z", shape=(4, d // 4))

# SAELens does not train transcoders: some steps towards rows of other sites
target_rows = torch.randn(n, d) @ torch.randn(d, OUT) * 0.1 + rows @ torch.randn(d, OUT) * 0.05
KINDS = {
    "transcoder": "Transcoder", "transcoder-skip": "SkipTranscoder", "transcoder-jumprelu": "JumpReLUTranscoder",
    "transcoder-jumprelu-skip": "JumpReLUSkipTranscoder",
}
for name, kind in KINDS.items():
    config = getattr(transcoder, kind + "Config")(d_in=d, d_sae=LATENTS, d_out=OUT, apply_b_dec_to_input=False)
    config.metadata.hook_name, config.metadata.hook_name_out = "blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out"
    sae = getattr(transcoder, kind)(config)
    if "jumprelu" in name:
        sae.threshold.data.fill_(0.3)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for _ in range(STEPS):
        (sae(rows) - target_rows).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    sae.save_model(folder(name))
    sae = SAE.load_from_disk(folder(name))
    with torch.no_grad():
        write(name, sae.encode(rows), sae(rows))

SPARSIFY = {
    "sparsify": SparseCoderConfig(num_latents=LATENTS, k=6),
    "sparsify-expansion": SparseCoderConfig(expansion_factor=2, k=6, multi_topk=True),
    "sparsify-free": SparseCoderConfig(num_latents=LATENTS, k=6, normalize_decoder=False),
    "sparsify-transcoder": SparseCoderConfig(num_latents=LATENTS, k=6, transcode=True),
    "sparsify-transcoder-skip": SparseCoderConfig(num_latents=LATENTS, k=6, transcode=True, skip_connection=True),
}
other_rows = rows @ torch.randn(d, d) * 0.1
for name, config in SPARSIFY.items():
    coder = SparseCoder(d, config)
    coder.b_dec.data = rows.mean(0)
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-2)
    for _ in range(STEPS):
        done = coder(rows, other_rows if config.transcode else None)
        (done.fvu + done.multi_topk_fvu / 8).backward()
        optimizer.step()
        optimizer.zero_grad()
        if config.normalize_decoder and not config.transcode:
            coder.set_decoder_norm_to_unit_norm()
    coder.save_to_disk(folder(name))
    with torch.no_grad():
        coder = SparseCoder.load_from_disk(folder(name))
        acts, indices, _ = coder.encode(rows)
        latents = torch.zeros(n, coder.num_latents).scatter_(1, indices, acts)
        write(name, latents, coder(rows, rows).sae_out if config.transcode else coder.decode(acts, indices))
