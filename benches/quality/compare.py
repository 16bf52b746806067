#!/usr/bin/env python3
"""Train coders with harvestd and with SAELens on the same rows, and judge both with the same code.

    compare.py --harvestd target/release/harvestd --model SmolLM2.gguf --text corpus.jsonl --out out/quality \
               [--site blocks.14.hook_resid_post] [--rows 1048576] [--seeds 1,2] [--only topk,gated] [--width 4608]

Rows of the site are stored and shuffled once (harvest, shuffle). Each coder is then trained on them by `harvestd run` as a
replay, and by SAELens' SAETrainer, with the same number of rows, batch, learning rate, warm-up, decay and coefficients; what
has no counterpart keeps each program's default. All results, as SAELens folders, are judged by one `harvestd eval` on documents
that neither saw. Goes on where it stopped; --train-only leaves the judging to a later call, so that seeds can be trained side by
side, each in a process of its own. Writes OUT/quality.json and prints the table.

Needs a Python with sae-lens, pyarrow and torch. The table has processor time, which another load disturbs less than the clock.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time

BATCH, LEARNING_RATE, WARMUP = 1024, 1e-3, 50
DEAD_STEPS = 150

parser = argparse.ArgumentParser()
for name in ["harvestd", "model", "text", "out"]:
    parser.add_argument("--" + name, required=True)
parser.add_argument("--site", default="blocks.14.hook_resid_post")
parser.add_argument("--rows", type=int, default=1 << 20)
parser.add_argument("--seeds", default="1,2")
parser.add_argument("--only", default="")
parser.add_argument("--width", type=int, default=4608)
parser.add_argument("--tokens", type=int, default=65536, help="held-out tokens to judge on")
parser.add_argument("--train-only", action="store_true")
parser.add_argument("--table", action="store_true")
parser.add_argument("--threads", type=int, default=os.cpu_count())
args = parser.parse_args()
os.makedirs(args.out, exist_ok=True)
path = lambda *names: os.path.join(args.out, *names)
width, dead = args.width, DEAD_STEPS * BATCH

# name -> (coder of a pipeline, class of SAELens, its configuration)
CODERS = {
    "topk": ({"type": "topk", "k": 32, "dead_after_tokens": dead}, "TopK", {"k": 32}),
    "batch_topk": ({"type": "batch_topk", "k": 32, "dead_after_tokens": dead}, "BatchTopK", {"k": 32}),
    "matryoshka": (
        {"type": "matryoshka", "k": 32, "widths": [width // 16, width // 4], "dead_after_tokens": dead},
        "MatryoshkaBatchTopK",
        {"k": 32, "matryoshka_widths": [width // 16, width // 4, width]},
    ),
    "standard": (
        {"type": "standard", "l1_coefficient": 5.0, "apply_b_dec_to_input": True, "l1_warmup_steps": 50},
        "Standard",
        {"l1_coefficient": 5.0, "l1_warm_up_steps": 50},
    ),
    "gated": (
        {"type": "gated", "l1_coefficient": 4.79, "decoder": "free", "l1_warmup_steps": 50},
        "Gated",
        {"l1_coefficient": 4.79, "l1_warm_up_steps": 50},
    ),
    "jumprelu": (
        {"type": "jumprelu", "l0_coefficient": 1.0, "l0_warmup_steps": 50, "decoder": "free"},
        "JumpReLU",
        {"l0_coefficient": 1.0, "l0_warm_up_steps": 50},
    ),
}


def run(*command):
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True)


def write(name, content):
    with open(path(name), "w") as f:
        json.dump(content, f, indent=2)  # JSON is YAML
    return path(name)


def pipeline(**sections):
    return {"version": 1, "name": "quality", "seed": 7, **sections}


def harvest():
    """Rows of the site, shuffled; about as much text as they need."""
    text, need = path("text.jsonl"), int(args.rows * 1.15) * 6
    if not os.path.exists(text):
        taken = 0
        with open(args.text) as source, open(text + ".part", "w") as out:
            for line in source:
                out.write(line)
                taken += len(json.loads(line)["text"])
                if taken > need:
                    break
        os.replace(text + ".part", text)
    tokens = {"context_length": 256, "prepend_bos": True}
    tokens["exclude"] = {"special": True, "positions": [0], "norm_above_median": 10}
    config = write(
        "harvest.yaml",
        pipeline(
            model={"source": args.model},
            corpus={"type": "jsonl", "paths": [text], "field": "text", "holdout": "6%"},
            tokens=tokens,
            capture=[args.site],
            dataset={"url": path("rows"), "dtype": "float32"},
        ),
    )
    if not os.path.exists(path("harvested")):
        run(args.harvestd, "run", config)
        run(args.harvestd, "shuffle", path("rows"), path("shuffled"))
        open(path("harvested"), "w").close()
    return config


def children():
    """Processor seconds of the programs this script has run."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(name, coder, seed):
    folder = path(f"ours-{name}-{seed}")
    config = pipeline(
        replay={"url": path("shuffled"), "epochs": 2},
        trainers=[
            {
                "name": f"{name}-{seed}",
                "input": args.site,
                "normalize": "sqrt_d",
                "buffer": {"rows": 16 * BATCH},
                "coder": {**coder, "width": width},
                "optimizer": {
                    "type": "adam", "learning_rate": LEARNING_RATE, "warmup_steps": WARMUP, "decay": "20%",
                    "clip_norm": 1.0,
                },
                "batch_rows": BATCH,
                "rows": args.rows,
                "checkpoint": {"url": folder, "keep": 1, "every": "1h"},
            }
        ],
        limits={"memory": "4GiB"},
    )
    config["seed"] = seed
    start, spent = time.time(), children()
    run(args.harvestd, "run", write(f"ours-{name}-{seed}.yaml", config))
    return os.path.join(folder, "saelens"), {"seconds": time.time() - start, "processor_seconds": children() - spent}


def stored_rows(folder):
    """All stored rows, [n, d] f32, in the order of the shuffled dataset: a file that is mapped, not read."""
    import glob
    import numpy as np
    import pyarrow.parquet as pq

    file = path("rows.npy")
    if not os.path.exists(file):
        shards = sorted(glob.glob(os.path.join(folder, "shards", "**", "*.parquet"), recursive=True))
        lengths = [pq.read_metadata(shard).num_rows for shard in shards]
        part, out, at = f"{file}.{os.getpid()}", None, 0
        for shard, n in zip(shards, lengths):
            column = pq.read_table(shard, columns=[args.site])[args.site].combine_chunks()
            rows = column.flatten().to_numpy(zero_copy_only=False).reshape(n, -1)
            if out is None:
                shape = (sum(lengths), rows.shape[1])
                out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            out[at : at + n] = rows
            at += n
        out.flush()
        os.replace(part, file)
    return np.load(file, mmap_mode="r")


def theirs(kind, config, seed, folder):
    import numpy as np
    import torch
    import sae_lens.saes as saes
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    rows = stored_rows(path("shuffled"))
    torch.set_num_threads(args.threads)
    torch.manual_seed(seed)
    settings = getattr(saes, kind + "TrainingSAEConfig")(
        d_in=rows.shape[1], d_sae=width, dtype="float32", device="cpu",
        normalize_activations="expected_average_only_in", **config,
    )
    sae = getattr(saes, kind + "TrainingSAE")(settings)
    order = np.random.default_rng(seed).permutation(len(rows))

    def batches():
        while True:
            for start in range(0, len(order) - BATCH + 1, BATCH):
                yield torch.from_numpy(rows[np.sort(order[start : start + BATCH])])

    steps = args.rows // BATCH
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * BATCH, train_batch_size_samples=BATCH, lr=LEARNING_RATE,
            lr_end=LEARNING_RATE / 10,
            lr_warm_up_steps=WARMUP, lr_decay_steps=steps // 5, dead_feature_window=DEAD_STEPS,
            n_batches_for_norm_estimate=64, logger=LoggingConfig(log_to_wandb=False),
        ),
        sae,
        batches(),
    )
    start, spent = time.time(), time.process_time()
    trainer.fit()
    took = {"seconds": time.time() - start, "processor_seconds": time.process_time() - spent}
    sae.save_inference_model(folder)
    return took


def judge(config, coders):
    """{name: folder} -> {name: metrics} by the same code on the same held-out documents."""
    out = path("judged")
    named = [f"{name}={folder}" for name, folder in coders.items()]
    run(args.harvestd, "eval", config, *[x for n in named for x in ("--coder", n)],
        *[x for n in coders if n.startswith("saelens") for x in ("--site", f"{n}={args.site}")], "--tokens", str(args.tokens), "--out", out)
    with open(os.path.join(out, "evaluation.json")) as f:
        return {c["name"]: c for c in json.load(f)["coders"]}


def once(folder, train):
    """Train into `folder` unless that was done; what it took is beside it. -> (folder of the coder, what it took)"""
    note = folder + ".json"
    if not os.path.exists(note):
        coder, took = train()
        with open(note + ".part", "w") as f:
            json.dump({"coder": coder, **took}, f)
        os.replace(note + ".part", note)
    with open(note) as f:
        took = json.load(f)
    return took.pop("coder"), took


def table(results):
    """Markdown: for each coder and seed both programs' held-out numbers."""
    lines = ["| coder, seed | by | FVU | L0 | dead | CE recovered | processor time |", "|---|---|---|---|---|---|---|"]
    for key, pair in results.items():
        name, _, seed = key.rpartition("-")
        for by in ["ours", "saelens"]:
            e = pair[by]["evaluation"]
            cells = [f"{e['fvu']:.4f}", f"{e['l0']:.1f}", f"{e['dead_fraction']:.1%}"]
            recovered = (e.get("language_model") or {}).get("ce_recovered")
            spent = pair[by].get("processor_seconds")
            cells += ["" if recovered is None else f"{recovered:.4f}", "" if spent is None else f"{spent:.0f} s"]
            lines.append(f"| `{name}`, {seed} | {'harvestd' if by == 'ours' else 'SAELens'} | {' | '.join(cells)} |")
    return "\n".join(lines)


if args.table:
    with open(path("quality.json")) as f:
        print(table(json.load(f)))
    sys.exit()
config = harvest()
trained = {}
for seed in map(int, args.seeds.split(",")):
    for name, (coder, kind, settings) in CODERS.items():
        if args.only and name not in args.only.split(","):
            continue
        mine, other = path(f"ours-{name}-{seed}"), path(f"saelens-{name}-{seed}")
        trained[f"ours-{name}-{seed}"] = once(mine, lambda: ours(name, coder, seed))
        trained[f"saelens-{name}-{seed}"] = once(other, lambda: (other, theirs(kind, settings, seed, other)))
if args.train_only:
    sys.exit()
results = {}
for by_name, metrics in judge(config, {name: folder for name, (folder, _) in trained.items()}).items():
    by, _, key = by_name.partition("-")
    results.setdefault(key, {})[by] = {**metrics, **trained[by_name][1]}
write("quality.json", results)
print(table(results))
