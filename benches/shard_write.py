"""Other writers of the same rows: f32 activations in memory to float16 columns, on one core, to memory.

Prints a name and GB of stored values a second of processor time (2 bytes a value) a line, each timed once.
"""

import io
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, WIDTH = int(sys.argv[1]), int(sys.argv[2])
GROUP = 8192
pa.set_cpu_count(1)
values = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
ids = {
    "doc_id": np.repeat(np.arange(ROWS // 1024, dtype=np.uint64), 1024),
    "unit": np.zeros(ROWS, np.uint32),
    "seq": np.repeat(np.arange(ROWS // 1024, dtype=np.uint32), 1024),
    "pos": np.tile(np.arange(1024, dtype=np.uint32), ROWS // 1024),
    "token_id": np.random.default_rng(1).integers(0, 50257, ROWS, dtype=np.uint32),
}


def table(rows):
    """A table of these rows, values rounded to float16."""
    flat = pa.array(values[rows].astype(np.float16).reshape(-1))
    columns = {name: pa.array(column[rows]) for name, column in ids.items()}
    return pa.table(columns | {"site": pa.FixedSizeListArray.from_arrays(flat, WIDTH)})


def groups():
    return (slice(at, at + GROUP) for at in range(0, ROWS, GROUP))


def parquet():
    out, writer = io.BytesIO(), None
    for rows in groups():
        part = table(rows)
        writer = writer or pq.ParquetWriter(
            out, part.schema, compression="none", use_dictionary=list(ids), write_statistics=list(ids), data_page_version="2.0"
        )
        writer.write_table(part)
    writer.close()
    assert len(out.getvalue()) > ROWS * WIDTH * 2


def hugging_face():
    from datasets.arrow_writer import ArrowWriter

    out = pa.BufferOutputStream()
    writer = ArrowWriter(stream=out)
    for rows in groups():
        writer.write_table(table(rows))
    writer.finalize()


def hugging_face_batches():
    """As a data set's `map` or generator writes: batches of numpy arrays."""
    from datasets import Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    kinds = {name: Value(str(column.dtype)) for name, column in ids.items()}
    features = Features(kinds | {"site": Sequence(Value("float16"), length=WIDTH)})
    writer = ArrowWriter(stream=pa.BufferOutputStream(), features=features)
    for rows in groups():
        columns = {name: column[rows] for name, column in ids.items()}
        writer.write_batch(columns | {"site": values[rows].astype(np.float16)})
    writer.finalize()


for name, write in [
    (f"pyarrow {pa.__version__} Parquet", parquet),
    ("HF datasets ArrowWriter, tables", hugging_face),
    ("HF datasets ArrowWriter, batches", hugging_face_batches),
]:
    since = time.process_time()
    write()
    print(f"{name}\t{ROWS * WIDTH * 2 / (time.process_time() - since) / 1e9}")
