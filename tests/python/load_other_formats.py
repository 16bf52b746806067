#!/usr/bin/env python3
"""Load exported coders with SAELens, sparsify, dictionary_learning and circuit-tracer, and write what they compute.

    load_other_formats.py ROWS N (FOLDER FORMAT)...

ROWS holds N rows of raw f32. Writes to FOLDER/out, as raw f32, the latents [N, f] and then the reconstructions [N, out]. The
folders of dictionary_learning are completed by the script that is in them. Of that library only the classes of its
dictionaries are loaded: what it harvests with (nnsight) is not installed. SAELens' and circuit-tracer's are transcoders; rows
of circuit-tracer hold the inputs of all layers side by side, and so do its latents and reconstructions.
"""
import importlib.util
import json
import os
import subprocess
import sys
import types

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # there is no GPU for its decoder

import huggingface_hub.constants  # noqa: E402
import numpy as np  # noqa: E402
import torch
from sae_lens import SAE
from sparsify import SparseCoder

# newer releases of the hub's client have it no more, and circuit-tracer reads it before it looks at a folder
huggingface_hub.constants.HF_HUB_ENABLE_HF_TRANSFER = False
from circuit_tracer.utils.caching import load_transcoders_from_cache  # noqa: E402

found = importlib.util.find_spec("dictionary_learning")
package = types.ModuleType("dictionary_learning")
package.__path__ = list(found.submodule_search_locations)
sys.modules["dictionary_learning"] = package
from dictionary_learning.dictionary import AutoEncoder, GatedAutoEncoder, JumpReluAutoEncoder  # noqa: E402
from dictionary_learning.trainers.top_k import AutoEncoderTopK  # noqa: E402

CLASSES = {c.__name__: c for c in [AutoEncoder, GatedAutoEncoder, JumpReluAutoEncoder, AutoEncoderTopK]}


def sparsify(folder, rows):
    coder = SparseCoder.load_from_disk(folder)
    acts, indices, _ = coder.encode(rows)
    latents = torch.zeros(len(rows), coder.num_latents).scatter_(1, indices, acts)
    if coder.cfg.transcode:  # the skip connection is in `forward` alone
        return latents, coder(rows, rows).sae_out
    return latents, coder.decode(acts, indices)


def saelens(folder, rows):
    sae = SAE.load_from_disk(folder)
    assert type(sae).__name__.endswith("Transcoder"), type(sae)
    assert sae.cfg.metadata.hook_name_out.endswith("hook_mlp_out"), sae.cfg.metadata
    return sae.encode(rows), sae(rows)


def circuit_tracer(folder, rows):
    found = []
    for lazy in [False, True]:
        transcoders, config = load_transcoders_from_cache(
            os.path.basename(folder), cache_dir=os.path.dirname(folder), dtype=torch.float32, lazy_encoder=lazy,
            lazy_decoder=lazy,
        )
        assert transcoders.feature_input_hook == "mlp.hook_in", config
        assert transcoders.feature_output_hook == "hook_mlp_out", config
        # [layers, n, d]
        x = rows.reshape(len(rows), transcoders.n_layers, -1).transpose(0, 1).contiguous()
        features = transcoders.encode(x)
        parts = transcoders.compute_attribution_components(x, zero_positions=slice(0, 0))
        out = transcoders.decode(features, x)
        assert torch.allclose(parts["reconstruction"], out, atol=1e-4), "sparse and dense differ"
        found.append([values.transpose(0, 1).reshape(len(rows), -1) for values in (features, out)])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found)), "what is loaded lazily differs"
    return found[0]


def dictionary_learning(folder, rows):
    subprocess.run([sys.executable, os.path.join(folder, "make_ae_pt.py")], check=True, capture_output=True)
    trainer = json.load(open(os.path.join(folder, "config.json")))["trainer"]
    more = {"k": trainer["k"]} if "k" in trainer else {}
    path = os.path.join(folder, "ae.pt")
    dictionary = CLASSES[trainer["dict_class"]].from_pretrained(path, **more)
    assert (dictionary.activation_dim, dictionary.dict_size) == (rows.shape[1], trainer["dict_size"])
    latents = dictionary.encode(rows)
    return latents, dictionary.decode(latents)


FORMATS = {
    "SAELens": saelens, "sparsify": sparsify, "dictionary_learning": dictionary_learning, "circuit-tracer": circuit_tracer,
}
rows_path, n = sys.argv[1:3]
for folder, name in zip(sys.argv[3::2], sys.argv[4::2]):
    rows = torch.from_numpy(np.fromfile(rows_path, dtype="<f4").reshape(int(n), -1).copy())
    with torch.no_grad():
        latents, reconstructions = FORMATS[name](folder, rows)
    values = np.concatenate([latents.numpy().ravel(), reconstructions.numpy().ravel()])
    values.astype("<f4").tofile(os.path.join(folder, "out"))
