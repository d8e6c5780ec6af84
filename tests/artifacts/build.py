"""Small artifacts for the tests of artifacts and runs."""

import io
from dataclasses import replace

import numpy as np

from xseg.artifacts import Failure, Header, Part, Record, WorkList
from xseg.artifacts.encode import encode

CLASSES = ("cat", "dog", "sofa")
EXTRA = {"signed": False, "class_specific": True, "map_size": "image"}


def ids(total):
    return [f"set/im ge-{index:03d}-é".replace(" ", "a") for index in range(total)]


def header(total=6, *, kind="heatmaps", classes=CLASSES, seed=0, shard="", parents=(), extra=EXTRA):
    extra = extra if kind == "heatmaps" else {}
    params = {"seed": seed, "scales": [1.0, 0.5]}
    work = WorkList.of(ids(total))
    return Header(
        kind, classes, "explain", params, parents=parents, extra=extra, work=work, shard=shard, root="/photographs"
    )


def record(index, *, kind="heatmaps", maps=None, dtype="float16", size=(5, 7), classes=CLASSES, noise=0):
    random = np.random.default_rng([index, noise])
    count = index % 3 if maps is None else maps
    name = ids(index + 1)[index]
    labels = np.array([1, 0, 255], np.uint8)[: len(classes)]
    if kind == "heatmaps":
        values = random.random((count, *size)) * (255 if dtype == "uint8" else 1)
        arrays = {
            "maps": values.astype(dtype),
            "maps/class_id": np.arange(1, count + 1, dtype=np.int32),
            "maps/scale": random.random(count).astype(np.float32),
        }
    else:
        arrays = {{"masks": "masks", "pseudolabels": "labels"}[kind]: random.integers(0, 4, size).astype(np.uint8)}
    return Record(index, name, f"{name}.jpg", size, f"{index:064x}", labels, arrays)


def encoded(records, head=None, failures=(), *, compress=True):
    buffer = io.BytesIO()
    encode(buffer, head or header(), records, failures, compress=compress)
    return buffer.getvalue()


def write(path, indices, head=None, failures=(), **options):
    head = head or header()
    path.write_bytes(encoded([record(i, kind=head.kind, **options) for i in indices], head, failures))
    return path


def failure(index, reason="no such file"):
    return Failure(index, ids(index + 1)[index], reason)


def same(one, other):
    """Whether two records hold the same, dtypes and shapes included; independent of their digests."""
    plain = ("index", "id", "path", "size", "source")
    if any(getattr(one, name) != getattr(other, name) for name in plain) or one.arrays.keys() != other.arrays.keys():
        return False
    pairs = [(one.labels, other.labels), *((one.arrays[name], other.arrays[name]) for name in one.arrays)]
    return all(a.dtype == b.dtype and a.shape == b.shape and (a == b).all() for a, b in pairs)


def contents(path):
    """Records, failures and content of an artifact."""
    with Part(path, str(path)) as part:
        return list(part.records()), part.failures, part.content()


def shards(total, count, **options):
    return [replace(header(total, **options), shard=f"{number}/{count}") for number in range(count)]
