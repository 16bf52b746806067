#!/usr/bin/env python3
"""Load an exported coder with SAELens, as any user would, and print what it computes.

    load_coder.py FOLDER ROWS N OUT

ROWS holds N rows of raw f32. Writes to OUT, as raw f32, the latents [N, d_sae] and then the reconstructions [N, d_in].
"""
import sys

import numpy as np
import torch
from sae_lens import SAE

folder, rows_path, n, out_path = sys.argv[1:5]
sae = SAE.load_from_disk(folder)
assert type(sae).__name__ == "TopKSAE", type(sae)
assert sae.cfg.metadata.hook_name == "blocks.3.attn.hook_z", sae.cfg.metadata
assert sae.cfg.metadata.hook_head_index == 2, sae.cfg.metadata
rows = torch.from_numpy(np.fromfile(rows_path, dtype="<f4").reshape(int(n), sae.cfg.d_in).copy())
with torch.no_grad():
    latents = sae.encode(rows)
    reconstructions = sae.decode(latents)
assert torch.equal(sae(rows), reconstructions)
with open(out_path, "wb") as out:
    for tensor in (latents, reconstructions):
        out.write(tensor.to(torch.float32).contiguous().numpy().astype("<f4").tobytes())
