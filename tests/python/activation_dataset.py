"""A PyTorch IterableDataset over a stored dataset: pyarrow only, shards split over workers, no copy but the file's.

    dataset = Activations("out/acts", "blocks.6.hook_resid_post", batch_rows=4096, seed=0)
    for x in torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2):
        ...                                   # x: [4096, width], in the stored number format

Rows come in the order of their shards; with a seed, shards and row groups come in a random order. For an exact global order
shuffle the dataset first (`harvestd shuffle`). As a script it reads {"dataset", "site"} from standard input and says what it
found, and how fast.
"""

import glob
import hashlib
import json
import os
import random
import sys
import time
import warnings

import pyarrow.parquet as pq
import torch


def header(folder):
    path = os.path.join(folder, "dataset.json")
    if not os.path.exists(path):
        return {"sites": []}  # a group that nobody finished beginning
    with open(path) as f:
        content = json.load(f)
    if content["format"] not in (1, 2):
        raise ValueError(f"{path}: unknown format {content['format']}")
    return content


def newest_manifest(folder):
    paths = glob.glob(os.path.join(folder, "manifests", "*.json"))
    return max(paths, key=lambda path: int(os.path.basename(path)[: -len(".json")]), default=None)


def live_parts(folder):
    """(unit, part) -> shard of what is stored and not retired: the newest manifest's rows, and the commits it does not cover."""
    while True:
        manifest = newest_manifest(folder)
        live, covered = {}, set()
        try:
            if manifest is not None:
                with open(manifest) as f:
                    content = json.load(f)
                if content["format"] != 2:
                    raise ValueError(f"{manifest}: unknown format {content['format']}")
                for segment in content["segments"]:
                    table = pq.read_table(
                        os.path.join(folder, segment["object"]), columns=["unit", "part", "object", "retired_at"]
                    )
                    for row in table.to_pylist():
                        place = (row["unit"], row["part"])
                        covered.add(place)
                        if row["retired_at"] is None:
                            live[place] = row["object"]
            for path in glob.glob(os.path.join(folder, "commits", "*.json")):
                unit, part = (int(number) for number in os.path.basename(path)[: -len(".json")].split("-"))
                if (unit, part) not in covered:
                    with open(path) as f:
                        live[unit, part] = json.load(f)["object"]
        except FileNotFoundError:
            # a newer manifest made these files superfluous while they were read; damage otherwise
            if newest_manifest(folder) == manifest:
                raise
            continue
        if newest_manifest(folder) == manifest:
            return live


class Activations(torch.utils.data.IterableDataset):
    def __init__(self, root, site, batch_rows=4096, seed=None):
        super().__init__()
        self.root, self.site, self.batch_rows, self.seed = str(root), site, batch_rows, seed
        # the dataset itself, or the column group that the site was added with
        for folder in [self.root, *sorted(glob.glob(os.path.join(self.root, "columns", "*")))]:
            sites = {s["name"]: s for s in header(folder)["sites"]}
            if site in sites:
                break
        else:
            raise KeyError(f"{self.root} has no site {site}")
        self.spec = sites[site]
        # the dataset says which parts there are; a group may be behind it
        base = live_parts(self.root)
        found = base if folder == self.root else live_parts(folder)
        places = [place for place in sorted(base) if place in found]
        if len(places) < len(base):
            warnings.warn(f"{folder} has {len(places)} of {len(base)} parts: the other rows are not read")
        self.shards = [os.path.join(folder, found[place]) for place in places]

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


def speed(root, site, size):
    """Best of five, in turn: this and pyarrow alone, in GB a second and a second of processor time."""
    dataset = Activations(root, site)

    def pyarrow_alone():
        for shard in dataset.shards:
            yield from pq.ParquetFile(shard, memory_map=True).iter_batches(dataset.batch_rows, columns=[site])

    best = {}
    for _ in range(5):
        for name, read in [("example", lambda: iter(dataset)), ("pyarrow", pyarrow_alone)]:
            for clock in (time.perf_counter, time.process_time):
                started = clock()
                for _ in read():
                    pass
                key = f"{name}, {clock.__name__}"
                best[key] = max(best.get(key, 0), size / max(clock() - started, 1e-9) / 1e9)
    return best


def main():
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    asked = json.load(sys.stdin)
    dataset = Activations(asked["dataset"], asked["site"], batch_rows=1000)
    rows = [x for x in dataset]
    digest = hashlib.sha256()
    for x in rows:
        digest.update(x.contiguous().view(torch.uint8).numpy().tobytes())
    n = sum(len(x) for x in rows)
    size = sum(x.numel() * x.element_size() for x in rows)
    loader = torch.utils.data.DataLoader(
        Activations(asked["dataset"], asked["site"], seed=1), batch_size=None, num_workers=2
    )
    shuffled = torch.cat([x.clone() for x in loader])
    order = lambda x: x.float().double().sum(1).sort().values
    json.dump(
        {
            "rows": n,
            "sha256": digest.hexdigest(),
            "rows_of_workers": len(shuffled),
            "equal": bool(torch.equal(order(torch.cat(rows)), order(shuffled))),
            "speed": speed(asked["dataset"], asked["site"], size),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
