"""Activations as numpy, safetensors and pyarrow write them; and whether an imported dataset holds the same."""

import glob
import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import safetensors.torch
import torch

WIDTH = 24


def data():
    """kind -> (values [rows, width] as float64, token ids, documents or None)"""
    rng = np.random.default_rng(7)
    values = lambda *shape: rng.normal(size=shape)
    d = {
        "npy-f16": values(501, WIDTH).astype("<f2"),
        "npy-f32": values(7, 33, WIDTH).astype("<f4"),
        "npy-f64": values(300, WIDTH),
        "npy-bf16": torch.tensor(values(200, WIDTH)).to(torch.bfloat16),
        "safetensors": torch.tensor(values(40, 25, WIDTH)).to(torch.bfloat16),
        "safetensors-ids": torch.tensor(values(90, WIDTH)).to(torch.float32),
        "parquet-fixed": values(2500, WIDTH).astype("f2"),
        "parquet-list": values(1300, WIDTH).astype("f4"),
        "parquet-binary": values(700, WIDTH).astype("f2"),
        "arrow": values(90, WIDTH).astype("f4"),
        "arrow-twice": None,
        "folder": [torch.tensor(values(6, 10, WIDTH)).to(torch.float16) for _ in range(12)],
        "feather-lz4": values(3000, WIDTH).astype("f4").round(1),
        "feather-zstd": values(3000, WIDTH).astype("f2").round(1),
        "small-ids": torch.tensor(values(6, 5, WIDTH)).to(torch.float16),
        "unsigned-ids": torch.tensor(values(6, 5, WIDTH)).to(torch.float16),
        "non-finite": values(50, 4, WIDTH).astype("f4"),
        "packed": torch.tensor(values(4, 6, WIDTH)).to(torch.float16),
        "parts": [values(9, WIDTH).astype("f4"), values(4, WIDTH).astype("f4")],
        "same-name": [values(5, WIDTH).astype("f4"), values(5, WIDTH).astype("f4")],
    }
    d["non-finite"][3, 1, 5] = np.nan
    d["non-finite"][7, 0, 0] = np.inf
    d["non-finite"][20] = -np.inf
    return d


def write(folder):
    os.makedirs(folder, exist_ok=True)
    at = lambda name: os.path.join(folder, name)
    d = data()
    np.save(at("two-f16.npy"), d["npy-f16"])
    np.save(at("three-f32.npy"), d["npy-f32"])
    np.save(at("two-f64.npy"), d["npy-f64"])
    np.save(at("two-bf16.npy"), d["npy-bf16"].view(torch.int16).numpy().view("V2"))
    ids = torch.arange(1000).view(40, 25)
    safetensors.torch.save_file({"states": d["safetensors"], "input_ids": ids}, at("states.safetensors"))
    named = {"x": d["safetensors-ids"], "y": torch.zeros(90, 3), "t": torch.arange(90, dtype=torch.int32), "d": torch.arange(90) * 5}
    safetensors.torch.save_file(named, at("named.safetensors"))
    fixed = lambda x, t: pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1), type=t), WIDTH)
    n = len(d["parquet-fixed"])
    table = pa.table({
        "activation": fixed(d["parquet-fixed"], pa.float16()), "text": ["x"] * n,
        "doc_id": pa.array(np.arange(n, dtype="u8") + 2**63), "token_id": pa.array(np.arange(n, dtype="i8")),
    })
    pq.write_table(table, at("fixed.parquet"), row_group_size=700)
    x = d["parquet-list"]
    pq.write_table(pa.table({"document": np.arange(len(x)) // 3, "v": pa.array(list(x), type=pa.list_(pa.float32()))}), at("list.parquet"))
    x = d["parquet-binary"]
    pq.write_table(pa.table({"v": pa.array([r.tobytes() for r in x], type=pa.binary(2 * WIDTH))}), at("binary.parquet"))
    table = pa.table({"v": fixed(d["arrow"], pa.float32()), "pos": pa.array(np.arange(90), type=pa.int16())})
    with pa.OSFile(at("fixed.arrow"), "wb") as f, pa.ipc.new_file(f, table.schema) as w:
        w.write_table(table, max_chunksize=40)
    os.makedirs(at("hook"))
    json.dump({"hook": "h"}, open(at("hook/metadata.json"), "w"))
    for i, x in enumerate(d["folder"]):
        safetensors.torch.save_file({"states": x, "input_ids": torch.full((6, 10), i)}, at(f"hook/{i}.safetensors"))
    open(at("hook/README"), "w").write("made by hand")
    open(at("hook/index.bin"), "wb").write(bytes(9))
    for codec, dtype in [("lz4", pa.float32()), ("zstd", pa.float16())]:
        table = pa.table({"text": ["a", "b", "c"] * 1000, "v": fixed(d["feather-" + codec], dtype), "doc_id": np.arange(3000)})
        pyarrow.feather.write_feather(table, at(codec + ".feather"), compression=codec, chunksize=700)
    ids = torch.arange(30).view(6, 5)
    small = {"states": d["small-ids"], "input_ids": ids.to(torch.int16), "doc_id": torch.arange(6).to(torch.int8) * 3}
    safetensors.torch.save_file(small, at("small.safetensors"))
    small = {"states": d["unsigned-ids"], "input_ids": ids.to(torch.uint16), "doc_id": torch.arange(6).to(torch.uint8).view(6, 1) * 3}
    safetensors.torch.save_file(small, at("unsigned.safetensors"))
    # two documents in each sequence: positions begin anew
    packed = {"states": d["packed"], "pos": torch.arange(6).remainder(3).repeat(4, 1)}
    safetensors.torch.save_file(packed, at("packed.safetensors"))
    # as a cluster leaves them: parts without rows; and names that are escaped in URLs
    os.makedirs(at("parts/day=1 #ü"))
    lists = [[], d["parts"][0], [], d["parts"][1]]
    for i, x in enumerate(lists):
        table = pa.table({"v": pa.array(list(x), type=pa.list_(pa.float32()))})
        pq.write_table(table, at(f"parts/day=1 #ü/{i}-a~b%25[x].parquet"))
    missing = pa.array([None, [1.0, 2.0]], type=pa.list_(pa.float32()))
    pq.write_table(pa.table({"v": missing}), at("missing.parquet"))
    os.makedirs(at("no-rows"))
    pq.write_table(pa.table({"v": pa.array([], type=pa.list_(pa.float32()))}), at("no-rows/0.parquet"))
    np.save(at("non-finite.npy"), d["non-finite"])
    np.save(at("large.npy"), np.concatenate([d["npy-f64"], d["npy-f64"][:40] * 1e6]).astype("f4"))
    for i, x in enumerate(d["same-name"]):
        os.makedirs(at(f"same/{i}"))
        np.save(at(f"same/{i}/x.npy"), x)
    os.makedirs(at("pickled"))
    np.save(at("pickled/0.npy"), d["npy-f16"])
    torch.save({"states": d["safetensors"]}, at("pickled/1.pt"))
    np.save(at("fortran.npy"), np.asfortranarray(d["npy-f64"]))
    np.save(at("object.npy"), np.array([[1, "a"]], dtype=object), allow_pickle=True)
    np.save(at("five.npy"), np.zeros((1, 1, 1, 1, 5)))
    open(at("cut.npy"), "wb").write(open(at("two-f64.npy"), "rb").read()[:-9])
    open(at("cut.safetensors"), "wb").write(open(at("states.safetensors"), "rb").read()[:-9])
    torch.save({"states": d["safetensors"]}, at("torch.pt"))
    pq.write_table(pa.table({"v": pa.array([[1.0, 2.0], [3.0]])}), at("unequal.parquet"))
    pq.write_table(pa.table({"a": [[1.0]], "b": [[2.0]]}), at("two-columns.parquet"))
    # the ids before the values: what is read twice would move them
    table = pa.table({"n": pa.array(np.arange(90), type=pa.int32()), "v": fixed(d["arrow"], pa.float32())})
    with pa.OSFile(at("twice.arrow"), "wb") as f, pa.ipc.new_file(f, table.schema) as w:
        w.write_table(table)
    odd = pa.array([bytes(2 * WIDTH + 1)] * 3, type=pa.binary(2 * WIDTH + 1))
    pq.write_table(pa.table({"v": odd}), at("odd.parquet"))
    safetensors.torch.save_file({"states": torch.zeros(3, 0, WIDTH)}, at("no-positions.safetensors"))
    os.makedirs(at("nothing"))
    return {"ok": True}


def imported(root):
    spec = json.load(open(os.path.join(root, "dataset.json")))["sites"][0]
    commits = sorted(glob.glob(os.path.join(root, "commits", "*.json")))
    tables = [pq.read_table(os.path.join(root, json.load(open(c))["object"])) for c in commits]
    table = pa.concat_tables(tables).combine_chunks()
    column = table.column(spec["name"]).combine_chunks()
    raw = (column if spec["layout"] == "raw" else column.flatten()).buffers()[1]
    x = torch.frombuffer(bytearray(raw), dtype=getattr(torch, spec["dtype"]))[: len(table) * spec["width"]]
    return spec, x.view(len(table), spec["width"]), table


def check(folder, cases):
    d = data()
    d["arrow-twice"] = d["arrow"]
    dtypes = {"npy-f64": "float32", "npy-f32": "float32", "npy-bf16": "bfloat16", "safetensors": "bfloat16", "safetensors-ids": "float32",
              "parquet-list": "float32", "parquet-binary": "float32", "arrow": "float32",
              "arrow-twice": "float32", "feather-lz4": "float32", "non-finite": "float32", "same-name": "float32",
              "parts": "float32"}
    checked = []
    for case in cases:
        kind = case["kind"]
        spec, x, table = imported(case["dataset"])
        wanted = d[kind]
        wanted = torch.cat([torch.as_tensor(w).reshape(-1, WIDTH) for w in wanted]) if isinstance(wanted, list) else torch.as_tensor(wanted)
        wanted = wanted.reshape(-1, WIDTH).to(torch.float32)
        finite = wanted.isfinite().all(1).numpy()
        wanted = wanted[finite]
        assert spec["dtype"] == dtypes.get(kind, "float16"), (kind, spec)
        assert torch.equal(x.float(), wanted), kind
        ids = lambda name: table.column(name).to_numpy()
        n = len(table)
        if kind == "safetensors":
            assert (ids("token_id") == np.arange(1000)).all() and (ids("pos") == np.tile(np.arange(25), 40)).all()
            assert len(set(ids("doc_id"))) == 40 and (ids("seq") == np.repeat(np.arange(40), 25)).all()
        elif kind == "safetensors-ids":
            assert (ids("token_id") == np.arange(90)).all() and (ids("doc_id") == np.arange(90) * 5).all()
        elif kind == "parquet-fixed":
            assert (ids("doc_id") == np.arange(n, dtype="u8") + 2**63).all() and (ids("token_id") == np.arange(n)).all()
        elif kind == "parquet-list":
            assert (ids("doc_id") == np.arange(n) // 3).all() and (ids("token_id") == 0).all()
        elif kind == "arrow":
            assert (ids("pos") == np.arange(90)).all()
        elif kind == "arrow-twice":
            assert (ids("doc_id") == np.arange(90)).all() and (ids("token_id") == np.arange(90)).all()
        elif kind.startswith("feather"):
            assert (ids("doc_id") == np.arange(3000)).all() and (ids("token_id") == 0).all()
        elif kind in ("small-ids", "unsigned-ids"):
            assert (ids("doc_id") == np.arange(30) // 5 * 3).all() and (ids("token_id") == np.arange(30)).all()
        elif kind == "non-finite":
            assert n == 194 and (ids("seq") == np.repeat(np.arange(50), 4)[finite]).all()
            assert (ids("pos") == np.tile(np.arange(4), 50)[finite]).all()
        elif kind == "packed":
            assert (ids("pos") == np.tile(np.arange(6), 4)).all()
        elif kind == "parts":
            assert (ids("unit") == np.repeat([1, 3], [9, 4])).all()
        elif kind == "same-name":
            assert len(set(ids("doc_id"))) == 10
        elif kind == "folder":
            assert (ids("unit") == np.repeat(np.arange(12), 60)).all() and (ids("token_id") == ids("unit")).all()
        else:
            assert (ids("token_id") == 0).all()
        checked.append(kind)
    return {"checked": checked}


asked = json.load(sys.stdin)
result = write(asked["folder"]) if sys.argv[1] == "write" else check(asked["folder"], asked["cases"])
json.dump(result, sys.stdout)
