"""What transformers' modules return and read, compared with what harvestd says that their paths name.

Standard input: [{"name", "folder", "values": a safetensors file of path -> flat values, "ids": [sequence, sequence]}].
Standard output: {name: {path: relative error, or null where there is no such module}}.
"""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def first(value):
    return value[0] if isinstance(value, (tuple, list)) else value


def module_at(model, path):
    """The module, in the whole model or in its base model."""
    for root in (model, model.base_model):
        try:
            return root.get_submodule(path)
        except AttributeError:
            pass
    return None


def flat(value, n, t):
    """Rows of a token each, in order."""
    if value.dim() == 4 and value.shape[1] != t and value.shape[2] == t:
        value = value.transpose(1, 2)  # heads stood before tokens
    if value.shape[0] == 1 and value.dim() == 3 and value.shape[1] == t:
        value = value.expand(n, -1, -1)  # the same for every sequence
    return value.reshape(-1).float()


def compare(case):
    model = AutoModelForCausalLM.from_pretrained(case["folder"], dtype=torch.float32, attn_implementation="eager").eval()
    values = load_file(case["values"])
    seen, found = {}, {}
    for path in values:
        reads = path.endswith(".input")
        module = module_at(model, path.removesuffix(".input"))
        if module is None:
            found[path] = None
        elif reads:
            module.register_forward_pre_hook(
                lambda _, args, kwargs, path=path: seen.__setitem__(path, args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
        else:
            module.register_forward_hook(lambda _, __, out, path=path: seen.__setitem__(path, first(out)))
    ids = torch.tensor(case["ids"])
    with torch.no_grad():
        model(ids)
    for path, value in seen.items():
        expected = flat(value.detach().clone(), *ids.shape)
        ours = values[path]
        assert expected.shape == ours.shape, (case["name"], path, value.shape, ours.shape)
        found[path] = ((ours - expected).norm() / expected.norm()).item()
    return found


print(json.dumps({case["name"]: compare(case) for case in json.load(sys.stdin)}))
