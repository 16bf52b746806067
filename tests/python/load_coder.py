#!/usr/bin/env python3
"""Load exported coders with SAELens, as any user would, and write what they compute.

    load_coder.py ROWS N (FOLDER ARCHITECTURE)...

ROWS holds N rows of raw f32. Writes to FOLDER/out, as raw f32, the latents [N, d_sae] and then the reconstructions [N, d_in].
"""
import os
import sys

import numpy as np
import torch
from sae_lens import SAE

CLASSES = {"standard": "StandardSAE", "topk": "TopKSAE", "jumprelu": "JumpReLUSAE", "gated": "GatedSAE"}

rows_path, n = sys.argv[1:3]
for folder, architecture in zip(sys.argv[3::2], sys.argv[4::2]):
    sae = SAE.load_from_disk(folder)
    assert type(sae).__name__ == CLASSES[architecture], (type(sae), architecture)
    assert sae.cfg.metadata.hook_name == "blocks.3.attn.hook_z", sae.cfg.metadata
    assert sae.cfg.metadata.hook_head_index == 2, sae.cfg.metadata
    rows = torch.from_numpy(np.fromfile(rows_path, dtype="<f4").reshape(int(n), sae.cfg.d_in).copy())
    with torch.no_grad():
        latents = sae.encode(rows)
        reconstructions = sae.decode(latents)
    assert torch.equal(sae(rows), reconstructions)
    with open(os.path.join(folder, "out"), "wb") as out:
        for tensor in (latents, reconstructions):
            out.write(tensor.to(torch.float32).contiguous().numpy().astype("<f4").tobytes())
