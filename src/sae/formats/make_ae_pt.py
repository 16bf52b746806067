#!/usr/bin/env python3
"""Make the ae.pt that dictionary_learning loads of the ae.safetensors and config.json beside this script.

    python make_ae_pt.py [FOLDER]

Needs torch and safetensors.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
folder = folder if folder.is_dir() else folder.parent
state = load_file(folder / "ae.safetensors")
trainer = json.loads((folder / "config.json").read_text())["trainer"]
if "k" in trainer:
    state["k"] = torch.tensor(trainer["k"], dtype=torch.int)
torch.save(state, folder / "ae.pt")
print(f"{folder / 'ae.pt'}: {trainer['dict_class']}, {trainer['dict_size']} latents of {trainer['activation_dim']}")
