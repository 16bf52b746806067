"""Reads a dataset as docs/dataset-format.md says, with nothing but pyarrow, the standard library, and xxhash for checksums.

Prints the number of rows and the SHA-256 of every column's values, in order of unit, part and row. Every checksum is
compared; damage ends it with a message.
"""

import hashlib
import io
import json
import os
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

IDS = ["doc_id", "unit", "seq", "pos", "token_id"]


class Damaged(Exception):
    pass


def checked(path, algorithm, value, size):
    """The bytes of an object, whose size and checksum are right."""
    if algorithm not in ("sha256", "xxh3_128"):
        raise Damaged(f"{path}: unknown checksum algorithm {algorithm}")
    data = path.read_bytes()
    if len(data) != size:
        raise Damaged(f"{path}: {len(data)} bytes instead of {size}")
    if algorithm == "sha256":
        found = hashlib.sha256(data).hexdigest()
    else:
        found = xxhash.xxh3_128_hexdigest(data)
    if found != value:
        raise Damaged(f"{path}: wrong checksum")
    return data


def newest_manifest(folder):
    names = [path for path in (folder / "manifests").glob("*.json")]
    return max(names, key=lambda path: int(path.stem), default=None)


def parts(folder):
    """Live parts of one dataset: (unit, part) -> {object, rows, bytes, checksum}."""
    while True:
        manifest = newest_manifest(folder)
        live, covered = {}, set()
        if manifest is not None:
            content = json.loads(manifest.read_text())
            if content["format"] != 2:
                raise Damaged(f"{manifest}: unknown format")
            for segment in content["segments"]:
                sum = segment["checksum"]
                data = checked(folder / segment["object"], sum["algorithm"], sum["value"], segment["bytes"])
                rows = pq.read_table(io.BytesIO(data)).to_pylist()
                if len(rows) != segment["rows"]:
                    raise Damaged(f"{segment['object']}: {len(rows)} rows")
                for row in rows:
                    place = (row["unit"], row["part"])
                    covered.add(place)
                    if row["retired_at"] is None:
                        live[place] = row
        for path in (folder / "commits").glob("*.json"):
            unit, part = (int(number) for number in path.stem.split("-"))
            if (unit, part) in covered:
                continue
            commit = json.loads(path.read_text())
            if commit["format"] != 1:
                raise Damaged(f"{path}: unknown format")
            sum = commit["checksum"]
            live[unit, part] = {**commit, "checksum": f"{sum['algorithm']}:{sum['value']}"}
        if newest_manifest(folder) == manifest:
            return live


def header(folder):
    content = json.loads((folder / "dataset.json").read_text())
    if content["format"] not in (1, 2):
        raise Damaged(f"{folder}: unknown format")
    return content


def values(column, site):
    """The stored bytes of a site's column."""
    out = bytearray()
    for chunk in column.chunks:
        flat = chunk if site["layout"] == "raw" else chunk.flatten()
        width = flat.type.byte_width
        out += flat.buffers()[1].to_pybytes()[flat.offset * width : (flat.offset + len(flat)) * width]
    return bytes(out)


def read(folder):
    base = header(folder)
    sources = [(folder, base["sites"], parts(folder))]
    for group in sorted(folder.glob("columns/*/dataset.json")):
        content = header(group.parent)
        for key in ("fingerprints", "tokens", "units", "sample", "shards", "norm_limits"):
            if content[key] != base[key]:
                raise Damaged(f"{group}: not a column group of its dataset")
        sources.append((group.parent, content["sites"], parts(group.parent)))
    sums = {name: hashlib.sha256() for name in IDS + [s["name"] for _, sites, _ in sources for s in sites]}
    rows = 0
    for place in sorted(sources[0][2]):
        # groups may be behind their dataset
        if not all(place in live for _, _, live in sources):
            continue
        ids = None
        for place_of, sites, live in sources:
            part = live[place]
            data = checked(place_of / part["object"], *part["checksum"].split(":"), part["bytes"])
            table = pq.read_table(io.BytesIO(data))
            if table.num_rows != part["rows"] or table.column_names != IDS + [s["name"] for s in sites]:
                raise Damaged(f"{part['object']}: other rows or columns than committed")
            here = table.select(IDS)
            if ids is None:
                ids, rows = here, rows + table.num_rows
                for name in IDS:
                    kind = "Q" if name == "doc_id" else "I"
                    numbers = here[name].to_pylist()
                    sums[name].update(b"".join(n.to_bytes(8 if kind == "Q" else 4, "little") for n in numbers))
            elif ids.to_pydict() != here.to_pydict():
                raise Damaged(f"{part['object']}: other rows than the dataset's")
            for site in sites:
                sums[site["name"]].update(values(table[site["name"]], site))
    return {"rows": rows, "columns": {name: sum.hexdigest() for name, sum in sums.items()}}


if __name__ == "__main__":
    try:
        print(json.dumps(read(pathlib.Path(sys.argv[1]))), flush=True)
        # pyarrow's threads may abort an interpreter that ends while they start
        os._exit(0)
    except (Damaged, pa.ArrowInvalid, KeyError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
