#!/usr/bin/env python3
"""Load exported coders with sparsify and dictionary_learning, and write what they compute.

    load_other_formats.py ROWS N (FOLDER FORMAT)...

ROWS holds N rows of raw f32. Writes to FOLDER/out, as raw f32, the latents [N, f] and then the reconstructions [N, d]. The
folders of dictionary_learning are completed by the script that is in them. Of that library only the classes of its
dictionaries are loaded: what it harvests with (nnsight) is not installed.
"""
import importlib.util
import json
import os
import subprocess
import sys
import types

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # there is no GPU for its decoder

import numpy as np  # noqa: E402
import torch
from sparsify import SparseCoder

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
    return latents, coder.decode(acts, indices)


def dictionary_learning(folder, rows):
    subprocess.run([sys.executable, os.path.join(folder, "make_ae_pt.py")], check=True, capture_output=True)
    trainer = json.load(open(os.path.join(folder, "config.json")))["trainer"]
    more = {"k": trainer["k"]} if "k" in trainer else {}
    path = os.path.join(folder, "ae.pt")
    dictionary = CLASSES[trainer["dict_class"]].from_pretrained(path, **more)
    assert (dictionary.activation_dim, dictionary.dict_size) == (rows.shape[1], trainer["dict_size"])
    latents = dictionary.encode(rows)
    return latents, dictionary.decode(latents)


rows_path, n = sys.argv[1:3]
for folder, name in zip(sys.argv[3::2], sys.argv[4::2]):
    rows = torch.from_numpy(np.fromfile(rows_path, dtype="<f4").reshape(int(n), -1).copy())
    with torch.no_grad():
        latents, reconstructions = {"sparsify": sparsify, "dictionary_learning": dictionary_learning}[name](folder, rows)
    values = np.concatenate([latents.numpy().ravel(), reconstructions.numpy().ravel()])
    values.astype("<f4").tofile(os.path.join(folder, "out"))
