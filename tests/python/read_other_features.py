#!/usr/bin/env python3
"""Read what was written for delphi and for Neuronpedia with their own classes.

    read_other_features.py FEATURES MODEL

Prints JSON: problems, and what was read.
"""
import asyncio
import json
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet

# what delphi imports for other parts of itself
for name, attributes in {"faiss": [], "sentence_transformers": ["SentenceTransformer"], "blobfile": [], "orjson": []}.items():
    module = sys.modules[name] = types.ModuleType(name)
    for attribute in attributes:
        setattr(module, attribute, object)

from delphi.config import ConstructorConfig, SamplerConfig
from delphi.latents.loader import LatentDataset
from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch
from transformers import PreTrainedTokenizerFast

folder, model = map(Path, sys.argv[1:3])
problems = []


def check(holds, what):
    if not holds:
        problems.append(str(what)[:300])


latents = pyarrow.parquet.read_table(folder / "features.parquet").to_pylist()
examples = pyarrow.parquet.read_table(folder / "examples.parquet").to_pylist()
tops = {}
for example in examples:
    if example["kind"] == "top":
        tops.setdefault(example["latent"], []).append(example)

# delphi: all activations, and its own choice of examples
tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
sampling = SamplerConfig(n_examples_train=4, n_examples_test=4, n_quantiles=2)
constructing = ConstructorConfig(min_examples=8, n_non_activating=4)
dataset = LatentDataset(folder / "delphi", sampling, constructing, tokenizer=tokenizer)
n_sequences, context = dataset.tokens.shape
check(context == 128 and n_sequences > 10, ("tokens", dataset.tokens.shape))
counted, seen = 0, set()
for buffer in dataset.buffers:
    for data in buffer:
        latent = data.latent.latent_index
        seen.add(latent)
        values, where = data.activation_data.activations.float().numpy(), data.activation_data.locations.numpy()
        counted += len(values)
        check(len(values) <= latents[latent]["rows"], ("more than there are", latent))
        check(values.max() <= latents[latent]["max"] * 1.001, ("largest", latent))
        # the strongest context, if it is in a sequence of full length, is where delphi has it
        best = tops[latent][0]
        at = where[np.argmax(values)]
        found = dataset.tokens[at[0], at[1]].item()
        if abs(values.max() - best["activation"]) < 1e-3 * best["activation"]:
            same = [top["ids"][top["peak"]] for top in tops[latent] if abs(top["activation"] - values.max()) < 2e-3 * values.max()]
            check(found in same, ("peak", latent, found, same))
total = sum(row["rows"] for row in latents)
check(0.5 * total < counted <= total, ("activations", counted, total))


async def records():
    return [record async for record in dataset]


chosen = asyncio.run(records())
check(len(chosen) > 50 and all(len(record.train) == 4 and len(record.test) > 0 for record in chosen), ("records", len(chosen)))
check(all(example.activations.max() > 0 for record in chosen for example in record.train), "examples that fire")

# Neuronpedia: the classes that SAEDashboard writes from
dashboards = []
for path in sorted(folder.glob("neuronpedia/batch-*.json")):
    given = json.loads(path.read_text())
    batch = NeuronpediaDashboardBatch(**given)
    check(batch.to_dict() == given, ("round trip", path))
    dashboards += batch.features
skipped = json.loads((folder / "neuronpedia/skipped_indexes.json").read_text())["skipped_indexes"]
check(sorted(skipped + [d.feature_index for d in dashboards]) == list(range(len(latents))), "latents")
for dashboard in dashboards:
    row = latents[dashboard.feature_index]
    check(dashboard.pos_str == row["promoted_tokens"] and dashboard.neg_str == row["suppressed_tokens"], "tokens")
    check(abs(dashboard.frac_nonzero - row["density"]) < 1e-6, "density")
    check(sum(dashboard.freq_hist_data_bar_heights) == row["rows"], "histogram")
    check(len(dashboard.logits_hist_data_bar_values) == len(dashboard.logits_hist_data_bar_heights) == 40, "logits")
    top = tops[dashboard.feature_index]
    check(len(dashboard.activations) >= len(top), "activations")
    for activation, example in zip(dashboard.activations, top):
        check(activation.tokens == example["tokens"] and activation.bin_min == -1, "contexts")
        check(abs(activation.values[activation.qualifying_token_index] - example["activation"]) < 1e-3, "peak")

json.dump({"problems": problems[:10], "sequences": n_sequences, "activations": counted, "total": total,
           "records": len(chosen), "dashboards": len(dashboards)}, sys.stdout)
