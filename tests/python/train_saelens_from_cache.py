"""SAELens reads an exported cache as its own cached activations and trains a few steps on it."""

import contextlib
import glob
import json
import os
import sys

import pyarrow.parquet as pq
import torch


def stored_rows(root, site):
    commits = sorted(glob.glob(os.path.join(root, "commits", "*.json")))
    tables = [pq.read_table(os.path.join(root, json.load(open(c))["object"]), columns=[site, "token_id"]) for c in commits]
    values, ids = [], []
    for table in tables:
        for batch in table.to_batches():
            column = batch.column(0)
            values.append(torch.tensor(column.flatten().to_numpy(zero_copy_only=False)).view(len(column), -1))
            ids.append(torch.tensor(batch.column(1).to_numpy().astype("int64")))
    return torch.cat(values), torch.cat(ids)


def main():
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        result = train(asked)
    json.dump(result, sys.stdout)


def train(asked):
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.activations_store import ActivationsStore

    values, ids = stored_rows(asked["dataset"], asked["site"])
    context, width = asked["context"], values.shape[1]
    store = ActivationsStore(
        model=torch.nn.Identity(),
        dataset=None,
        streaming=False,
        hook_name=asked["site"],
        hook_head_index=None,
        context_size=context,
        d_in=width,
        n_batches_in_buffer=8,
        total_training_tokens=len(values),
        store_batch_size_prompts=4,
        train_batch_size_tokens=256,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=asked["cache"],
    )
    cached = store.cached_activation_dataset
    found = torch.stack([row[asked["site"]] for row in cached]).view(-1, width)
    tokens = torch.stack([row["token_ids"] for row in cached]).view(-1)
    n = len(found)
    assert torch.equal(found.float(), values[:n].float()), "other values than stored"
    assert torch.equal(tokens.long(), ids[:n]), "other tokens than stored"

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=width, d_sae=128, k=8, dtype="float32", device="cpu"))
    config = SAETrainerConfig(
        total_training_samples=256 * 60, train_batch_size_samples=256, device="cpu", lr=1e-3, lr_end=1e-4, lr_warm_up_steps=0,
        lr_decay_steps=0, lr_scheduler_name="constant", n_restart_cycles=1, adam_beta1=0.9, adam_beta2=0.999,
        dead_feature_window=1000, feature_sampling_window=1000, n_checkpoints=0, checkpoint_path=None,
        save_final_checkpoint=False, autocast=False, logger=LoggingConfig(log_to_wandb=False),
    )
    losses = []
    provider = store.get_data_loader()
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=provider, evaluator=None)
    step = trainer._train_step

    def watched(**kwargs):
        output = step(**kwargs)
        losses.append(output.loss.item())
        return output

    trainer._train_step = watched
    trainer.fit()
    return {"rows_equal": n, "steps": len(losses), "losses": losses}


if __name__ == "__main__":
    main()
