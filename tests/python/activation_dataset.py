"""A PyTorch IterableDataset over a stored dataset: pyarrow only, shards split over workers, no copy but the file's.

    dataset = Activations("out/acts", "blocks.6.hook_resid_post", batch_rows=4096, seed=0)
    for x in torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2):
        ...                                   # x: [4096, width], in the stored number format

Rows come in the order of their shards; with a seed, shards and row groups come in a random order. For an exact global order
shuffle the dataset first (`harvestd shuffle`). As a script it reads {"dataset", "site"} from standard input and says what it
found, and how fast.
"""

import glob
import json
import os
import random
import sys
import time

import pyarrow.parquet as pq
import torch


class Activations(torch.utils.data.IterableDataset):
    def __init__(self, root, site, batch_rows=4096, seed=None):
        super().__init__()
        self.root, self.site, self.batch_rows, self.seed = str(root), site, batch_rows, seed
        with open(os.path.join(self.root, "dataset.json")) as f:
            self.spec = next(s for s in json.load(f)["sites"] if s["name"] == site)
        # a shard exists if and only if its commit does (docs/dataset-format.md says how to read manifests besides)
        commits = sorted(glob.glob(os.path.join(self.root, "commits", "*.json")))
        self.shards = [os.path.join(self.root, json.load(open(c))["object"]) for c in commits]

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        order = random.Random(self.seed)
        shards = list(self.shards)
        if self.seed is not None:
            order.shuffle(shards)
        for shard in shards[worker.id :: worker.num_workers] if worker else shards:
            file = pq.ParquetFile(shard, memory_map=True)
            groups = list(range(file.num_row_groups))
            if self.seed is not None:
                order.shuffle(groups)
            for batch in file.iter_batches(self.batch_rows, row_groups=groups, columns=[self.site]):
                yield self.tensor(batch.column(0))

    def tensor(self, column):
        """The column's own memory as [rows, width]."""
        values = column if self.spec["layout"] == "raw" else column.flatten()
        dtype, width = getattr(torch, self.spec["dtype"]), self.spec["width"]
        start = values.offset * (width if self.spec["layout"] == "raw" else 1) * dtype.itemsize
        count = len(column) * width
        # Arrow's memory is never written to, so torch's warning that it could be has no object
        return torch.frombuffer(values.buffers()[1], dtype=dtype, offset=start, count=count).view(-1, width)


def main():
    import warnings

    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    asked = json.load(sys.stdin)
    dataset = Activations(asked["dataset"], asked["site"], batch_rows=1000)
    started = time.perf_counter()
    rows = [x for x in dataset]
    seconds = time.perf_counter() - started
    n = sum(len(x) for x in rows)
    bytes_read = sum(x.numel() * x.element_size() for x in rows)
    loader = torch.utils.data.DataLoader(
        Activations(asked["dataset"], asked["site"], seed=1), batch_size=None, num_workers=2
    )
    shuffled = torch.cat([x.clone() for x in loader])
    order = lambda x: x.float().double().sum(1).sort().values
    json.dump(
        {
            "rows": n,
            "rows_of_workers": len(shuffled),
            "equal": bool(torch.equal(order(torch.cat(rows)), order(shuffled))),
            "gb_per_second": bytes_read / seconds / 1e9,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
