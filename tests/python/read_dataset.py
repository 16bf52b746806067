"""Read stored datasets with every reader that people use, and compare what they see with what was written.

usage: read_dataset.py EXPECTED.json

EXPECTED.json: {"datasets": [{"folder": ..., "rows": {"doc_id": [...], "unit": [...], "seq": [...], "pos": [...],
"token_id": [...]}, "sites": [{"name", "dtype", "layout", "width", "values": [...] (row-major, as stored)}]}]}

Prints one line a dataset and reader; exits with 1 at the first difference.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import datasets
import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

IDS = ["doc_id", "unit", "seq", "pos", "token_id"]


def shards(folder):
    """Paths of all shards, in the order of their commits: a shard without a commit does not exist."""
    commits = [json.loads(p.read_text()) for p in sorted(Path(folder, "commits").glob("*.json"))]
    return [str(Path(folder, c["object"])) for c in commits]


def from_bytes(rows, site):
    """[n, width] float32 from raw rows."""
    data = np.frombuffer(b"".join(rows), dtype=np.uint8)
    if site["dtype"] == "bfloat16":
        bits = data.view("<u2").astype(np.uint32) << 16
        values = bits.view(np.float32)
    else:
        values = data.view({"float16": "<f2", "float32": "<f4"}[site["dtype"]])
    return values.astype(np.float32).reshape(-1, site["width"])


def is_raw(site):
    return site["layout"] == "raw" or site["dtype"] == "bfloat16"


def with_pyarrow(files, sites):
    table = pq.ParquetDataset(files).read()
    ids = {name: table[name].to_numpy() for name in IDS}
    values = {}
    for site in sites:
        column = table[site["name"]].combine_chunks()
        metadata = table.schema.field(site["name"]).metadata
        assert metadata[b"dtype"].decode() == site["dtype"]
        assert json.loads(metadata[b"shape"]) == [site["width"]]
        if is_raw(site):
            values[site["name"]] = from_bytes(column.to_pylist(), site)
        else:
            assert column.type.list_size == site["width"]
            assert str(column.type.value_type) == {"float16": "halffloat", "float32": "float"}[site["dtype"]]
            values[site["name"]] = column.flatten().to_numpy().astype(np.float32).reshape(-1, site["width"])
    return ids, values


def with_pyarrow_columns(files, sites):
    """One column by its name, dots and all."""
    table = pq.read_table(files, columns=["seq"] + [s["name"] for s in sites])
    assert table.column_names == ["seq"] + [s["name"] for s in sites], table.column_names
    return {}, {}


def with_polars(files, sites):
    frame = pl.read_parquet(files)
    ids = {name: frame[name].to_numpy() for name in IDS}
    values = {}
    for site in sites:
        column = frame[site["name"]]
        if is_raw(site):
            values[site["name"]] = from_bytes(column.to_list(), site)
        else:
            assert isinstance(column.dtype, pl.Array) and column.dtype.size == site["width"], column.dtype
            values[site["name"]] = column.explode().cast(pl.Float32).to_numpy().reshape(-1, site["width"])
    return ids, values


def with_duckdb(files, sites):
    names = ", ".join(IDS + [f'"{s["name"]}"' for s in sites])
    rows = duckdb.execute(f"select {names} from read_parquet(?) order by unit, seq, pos", [files]).fetchall()
    ids = {name: np.array([row[i] for row in rows], dtype=np.uint64) for i, name in enumerate(IDS)}
    values = {}
    for i, site in enumerate(sites, len(IDS)):
        column = [row[i] for row in rows]
        if is_raw(site):
            values[site["name"]] = from_bytes(column, site)
        else:
            values[site["name"]] = np.array(column, dtype=np.float32)
    return ids, values


def with_datasets(files, sites):
    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        ids = {name: np.array(data.with_format("arrow")[:][name].to_numpy()) for name in IDS}
        values = {}
        for site in sites:
            if is_raw(site):
                values[site["name"]] = from_bytes(data[:][site["name"]], site)
            else:
                values[site["name"]] = np.asarray(data.with_format("numpy")[:][site["name"]], dtype=np.float32)
    return ids, values


def documented_example():
    """The function `activations` of the format's document: what people copy must work."""
    text = Path(__file__).parents[2].joinpath("docs/dataset-format.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names = {}
    exec(compile(code, "dataset-format.md", "exec"), names)
    return names["activations"]


def with_torch(folder, sites):
    activations = documented_example()
    values = {}
    for site in sites:
        batches = list(activations(Path(folder), site["name"]))
        assert all(str(b.dtype) == f"torch.{site['dtype']}" for b in batches)
        values[site["name"]] = torch.cat(batches).float().numpy()
    return {}, values


def compare(expected, reader, ids, values):
    for name, found in ids.items():
        wanted = np.array(expected["rows"][name], dtype=np.uint64)
        assert np.array_equal(found.astype(np.uint64), wanted), f"{reader}: {name} differs"
    for site in expected["sites"]:
        if site["name"] not in values:
            continue
        wanted = np.array(site["values"], dtype=np.float32).reshape(-1, site["width"])
        found = values[site["name"]]
        assert found.shape == wanted.shape, f"{reader}: {site['name']} has shape {found.shape}, not {wanted.shape}"
        assert np.array_equal(found, wanted), f"{reader}: {site['name']} differs by {np.abs(found - wanted).max()}"


def main():
    with open(sys.argv[1]) as file:
        cases = json.load(file)["datasets"]
    for expected in cases:
        folder, sites = expected["folder"], expected["sites"]
        files = shards(folder)
        readers = {
            "pyarrow": lambda: with_pyarrow(files, sites),
            "pyarrow columns": lambda: with_pyarrow_columns(files, sites),
            "polars": lambda: with_polars(files, sites),
            "duckdb": lambda: with_duckdb(files, sites),
            "datasets": lambda: with_datasets(files, sites),
            "torch": lambda: with_torch(folder, sites),
        }
        for reader, read in readers.items():
            compare(expected, reader, *read())
            print(f"{Path(folder).name}: {reader} agrees ({len(files)} shards)", flush=True)


if __name__ == "__main__":
    main()
