"""A training step: this program beside SAELens and sparsify, in turn, in one run, on random rows that are in memory.

    python benches/peers/step.py --harvestd target/release/harvestd --threads 2 --pairs 5 [--shapes 576x4608 768x16384] [--only topk]

All train on batches of 4,096 normal rows in f32, TopK and its relatives with k 32. harvestd is timed by `harvestd bench step`, SAELens
by SAETrainer's own `_train_step`, sparsify by what its Trainer does for a batch (TopK only: it has no other of these coders), with
its signum. A turn is the median of --steps steps of one after the median of as many of the other; a pair of turns is one ratio;
the table has medians of the rates and the median, least and largest ratio. sparsify runs without its Triton kernels, which need a GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

BATCH, K, BATCHES = 4096, 32, 4

# name -> (ours, class of SAELens, its configuration); `width` is put in
CODERS = {
    "topk": ({"type": "topk", "k": K}, "TopK", {"k": K}),
    "batch_topk": ({"type": "batch_topk", "k": K}, "BatchTopK", {"k": K}),
    "matryoshka": ({"type": "matryoshka", "k": K}, "MatryoshkaBatchTopK", {"k": K}),
    "jumprelu": ({"type": "jumprelu", "l0_coefficient": 1.0}, "JumpReLU", {"l0_coefficient": 1.0}),
    "gated": ({"type": "gated", "l1_coefficient": 4.79}, "Gated", {"l1_coefficient": 4.79}),
    "standard": ({"type": "standard", "l1_coefficient": 5.0}, "Standard", {"l1_coefficient": 5.0}),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harvestd", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=["576x4608", "768x16384"])
    parser.add_argument("--only", nargs="+", default=list(CODERS))
    return parser.parse_args()


def widths(width):
    return [width // 16, width // 4]


def ours(args, name, d, width):
    coder = {**CODERS[name][0], "width": width}
    if name == "matryoshka":
        coder["widths"] = widths(width)
    command = [args.harvestd, "bench", "step", "--json", "--coder", json.dumps(coder), f"--input-width={d}"]
    command += [f"--batch-rows={BATCH}", f"--threads={args.threads}", f"--steps={args.steps}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["rows_per_second"]


def timed(step, batches, steps):
    """Rows a second: the median of some steps."""
    seconds = []
    for i in range(steps):
        start = time.perf_counter()
        step(batches[i % len(batches)])
        seconds.append(time.perf_counter() - start)
    return BATCH / statistics.median(seconds)


def saelens(name, d, width):
    import sae_lens.saes as saes
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    _, kind, settings = CODERS[name]
    if name == "matryoshka":
        settings = {**settings, "matryoshka_widths": [*widths(width), width]}
    config = getattr(saes, kind + "TrainingSAEConfig")(d_in=d, d_sae=width, dtype="float32", device="cpu", **settings)
    sae = getattr(saes, kind + "TrainingSAE")(config)
    about = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=BATCH, lr=3e-4, lr_end=3e-5, device="cpu", autocast=False,
        dead_feature_window=1000, feature_sampling_window=10**6, n_checkpoints=0, logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(about, sae, iter([]))
    return lambda x: trainer._train_step(sae, x)


def sparsify(d, width):
    from sparsify.config import SparseCoderConfig
    from sparsify.sign_sgd import SignSGD
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(d, SparseCoderConfig(num_latents=width, k=K))
    optimizer = SignSGD(coder.parameters(), lr=5e-3 / (width / 2**14) ** 0.5)

    def step(x):
        coder.set_decoder_norm_to_unit_norm()
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(args, name, shape, batches):
    d, width = map(int, shape.split("x"))
    peers = {"SAELens": saelens(name, d, width)}
    if name == "topk":
        peers["sparsify"] = sparsify(d, width)
    for step in peers.values():
        step(batches[0])
    pairs = []
    for _ in range(args.pairs):
        own = ours(args, name, d, width)
        pairs.append((own, {peer: timed(step, batches, args.steps) for peer, step in peers.items()}))
    for peer in peers:
        ratios = [own / rates[peer] for own, rates in pairs]
        own, other = (statistics.median(rates) for rates in zip(*[(own, rates[peer]) for own, rates in pairs]))
        print(
            f"| `{name}` {shape} | {own:,.0f} | {peer} {other:,.0f} | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) |",
            flush=True,
        )


def main():
    args = arguments()
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    print(f"torch {torch.__version__}, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    print("| coder, shape | harvestd, rows/s | peer, rows/s | ratio, median (least to most) |")
    print("|---|---|---|---|")
    for shape in args.shapes:
        d = int(shape.split("x")[0])
        batches = [torch.randn(BATCH, d) for _ in range(BATCHES)]
        for name in args.only:
            compare(args, name, shape, batches)


if __name__ == "__main__":
    main()
