#!/usr/bin/env python3
"""Train coders with SAELens' own training classes from given weights on given batches.

    train_saelens_steps.py FOLDER...

Each FOLDER has `spec.json` {"class", "config", "coefficients", "steps", "batch", "learning_rate", "params"} and raw f32 files: `rows`
[steps * batch, d_in], and one for each entry of "params", {file: SAELens' name}; encoder matrices as rows of latents. Writes, as
raw f64, `losses` [steps] and each parameter after the last step as FILE.out. Everything is computed in f64.
"""
import json
import os
import sys

import numpy as np
import torch
from sae_lens.saes import batchtopk_sae, gated_sae, jumprelu_sae, matryoshka_batchtopk_sae, standard_sae, topk_sae
from sae_lens.saes.sae import TrainStepInput

torch.set_num_threads(1)
MODULES = [batchtopk_sae, gated_sae, jumprelu_sae, matryoshka_batchtopk_sae, standard_sae, topk_sae]


def named(name):
    return next(getattr(m, name) for m in MODULES if hasattr(m, name))


for folder in sys.argv[1:]:
    path = lambda name: os.path.join(folder, name)
    spec = json.load(open(path("spec.json")))
    config = named(spec["class"] + "Config")(dtype="float64", device="cpu", **spec["config"])
    sae = named(spec["class"])(config)
    d, f = config.d_in, config.d_sae
    with torch.no_grad():
        for file, name in spec["params"].items():
            values = torch.from_numpy(np.fromfile(path(file), dtype="<f4").astype("f8"))
            target = getattr(sae, name)
            if name == "W_enc":
                values = values.reshape(f, d).T
            target.copy_(values.reshape(target.shape))
    rows = torch.from_numpy(np.fromfile(path("rows"), dtype="<f4").astype("f8")).reshape(spec["steps"], spec["batch"], d)
    optimizer = torch.optim.Adam(sae.parameters(), lr=spec["learning_rate"], betas=(0.9, 0.999))
    losses = []
    for step, batch in enumerate(rows):
        dead = torch.zeros(f, dtype=torch.bool)
        dead[spec["coefficients"].get("dead", [])] = True
        coefficients = {name: value for name, value in spec["coefficients"].items() if name != "dead"}
        given = TrainStepInput(batch, coefficients, dead, step, False)
        loss = sae.training_forward_pass(given).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    np.array(losses, dtype="<f8").tofile(path("losses"))
    for file, name in spec["params"].items():
        values = getattr(sae, name).detach().double()
        if name == "W_enc":
            values = values.T
        if name == "threshold":
            values = values.clamp(min=0)
        values.contiguous().numpy().astype("<f8").tofile(path(file + ".out"))
