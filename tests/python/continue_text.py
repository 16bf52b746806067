"""Losses and greedy continuations by transformers.

usage: continue_text.py MODEL  (a .gguf file or a folder), reads {"prompts": [[id, ...], ...], "new": n} from standard input and
prints {"losses": [[...], ...], "continuations": [[id, ...], ...], "margins": [[...], ...]}: the cross entropy of each token but
the first of every prompt, the tokens of the greedy continuation, and by how much the logit of each exceeded the next best.
"""
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM

path = sys.argv[1]
request = json.load(sys.stdin)
folder, file = os.path.split(path) if path.endswith(".gguf") else (path, None)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager").eval()
losses, continuations, margins = [], [], []
with torch.no_grad():
    for prompt in request["prompts"]:
        ids = torch.tensor([prompt])
        log_p = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        losses.append((-log_p.gather(-1, ids[0, 1:, None])[:, 0]).tolist())
        new, gaps, cache, step = [], [], None, ids
        for _ in range(request["new"]):
            out = model(input_ids=step, past_key_values=cache, use_cache=True)
            cache, top = out.past_key_values, out.logits[0, -1].topk(2)
            gaps.append((top.values[0] - top.values[1]).item())
            new.append(top.indices[0].item())
            step = top.indices[:1][None]
        continuations.append(new)
        margins.append(gaps)
json.dump({"losses": losses, "continuations": continuations, "margins": margins}, sys.stdout)
