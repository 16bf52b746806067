#!/usr/bin/env python3
"""Read the features of a coder with pyarrow and polars; compare with what numpy and transformers say of the same coder.

    read_features.py FEATURES SAELENS_FOLDER MODEL

Prints JSON: problems, and some totals.
"""
import json
import sys
from pathlib import Path

import numpy as np
import polars
import pyarrow.parquet
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

folder, coder, model_folder = map(Path, sys.argv[1:4])
problems = []


def check(holds, what):
    if not holds:
        problems.append(str(what)[:300])


latents = pyarrow.parquet.read_table(folder / "features.parquet").to_pylist()
examples = pyarrow.parquet.read_table(folder / "examples.parquet").to_pylist()
about = json.loads((folder / "about.json").read_text())
check(polars.read_parquet(folder / "features.parquet").to_dicts() == latents, "polars reads other features")
check(polars.read_parquet(folder / "examples.parquet").height == len(examples), "polars reads other examples")
check([row["latent"] for row in latents] == list(range(len(latents))), "latents in their order")

weights = load_file(coder / "sae_weights.safetensors")
decoder, encoder = weights["W_dec"].astype(np.float64), weights["W_enc"].T.astype(np.float64)
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
norm = model.model.norm.weight.detach().numpy().astype(np.float64)
head = model.lm_head.weight.detach().numpy().astype(np.float64)
effects = (decoder * norm) @ head.T
tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model_folder / "tokenizer.json"))


def nearest(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows / norms) @ (rows / norms).T
    np.fill_diagonal(cosines, -2)
    return cosines


cosines = {"decoder": nearest(decoder), "encoder": nearest(encoder)}
for row in latents:
    i = row["latent"]
    fired = row["rows"] > 0
    check(abs(row["density"] - row["rows"] / about["rows"]) < 1e-6, ("density", row))
    check(sum(row["histogram_counts"]) == row["rows"], ("histogram", i))
    quantiles = [row[q] for q in ("min", "p1", "p10", "p25", "p50", "p75", "p90", "p99", "max")]
    check(quantiles == sorted(quantiles) if fired else quantiles == [None] * 9, ("quantiles", row))
    check(abs(row["decoder_norm"] - np.linalg.norm(decoder[i])) < 1e-4, ("norm", i))
    for what, sign in (("promoted", 1), ("suppressed", -1)):
        ids, logits = row[f"{what}_ids"], np.array(row[f"{what}_logits"])
        best = np.sort(sign * effects[i])[::-1][: len(ids)] * sign
        check(len(ids) == 10 and np.allclose(logits, best, atol=1e-4), (what, i, logits, best))
        check(np.allclose(effects[i][ids], logits, atol=1e-4), (what, i))
    for what, matrix in cosines.items():
        best = np.sort(matrix[i])[::-1][:10]
        found = np.array(row[f"{what}_cosines"])
        check(np.allclose(found, best, atol=1e-4), (what, i, found, best))
        check(np.allclose(matrix[i][row[f"{what}_nearest"]], found, atol=1e-4), (what, i))
    check(i not in row["coactive"] and all(n >= 2 for n in row["coactive_rows"]), ("coactive", row))

by_latent = {}
for example in examples:
    by_latent.setdefault((example["latent"], example["kind"]), []).append(example)
    ids, activations = example["ids"], example["activations"]
    check(len(ids) == len(activations) == len(example["tokens"]) <= 31, ("lengths", example))
    check(activations[example["peak"]] == example["activation"] == max(activations), ("peak", example))
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    check(example["text"] == whole, ("text", example["text"], whole))
    if not any("<0x" in token for token in example["tokens"]):
        check("".join(example["tokens"]) == example["text"], ("tokens", example))
for (latent, kind), those in by_latent.items():
    sizes = [example["activation"] for example in those]
    check([example["rank"] for example in those] == list(range(len(those))), ("ranks", latent))
    check(sizes == sorted(sizes, reverse=True) and len(those) <= {"top": 20, "sampled": 40}[kind], ("order", latent))
    check(len(those) == min(latents[latent]["peaks"], 40) if kind == "sampled" else True, ("sampled", latent))
    check(1 <= latents[latent]["sequences"] <= latents[latent]["rows"], ("sequences", latent))
    check(len({example["sequence"] for example in those}) <= latents[latent]["sequences"], ("sequences", latent))
    if kind == "top":
        lens = set(np.argsort(-effects[latent])[:20])
        hits = [example["ids"][example["peak"]] in lens for example in those]
        score = latents[latent]["input_score"]
        check(score is None if len(hits) < 10 else abs(score - np.mean(hits)) < 1e-6, ("input score", latent, score))
        check(sizes[0] == latents[latent]["max"], ("strongest", latent))
        check(len({tuple(example["ids"]) for example in those}) == len(those), ("twice", latent))
    places = [(e["unit"], e["sequence"], e["position"]) for e in those]
    check(len(set(places)) == len(places), ("places", latent))
check({latent for latent, _ in by_latent} == {row["latent"] for row in latents if row["rows"]}, "latents with examples")

json.dump({
    "problems": problems[:10],
    "rows": len(latents),
    "examples": len(examples),
    "silent": sum(row["rows"] == 0 for row in latents),
    "sum_of_densities": sum(row["rows"] for row in latents) / about["rows"],
}, sys.stdout)
