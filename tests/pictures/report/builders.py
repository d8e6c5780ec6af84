"""Small runs over a synthetic data set, as artifacts, and the page about them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from xseg.artifacts.encode import encode, encode_result
from xseg.artifacts.header import Header, Parent, WorkList
from xseg.artifacts.record import Record
from xseg.datasets import open_dataset
from xseg.datasets.index import Dataset
from xseg.datasets.source import digest
from xseg.datasets.synthetic import write_synthetic
from xseg.pictures.report.collect import GalleryOptions
from xseg.pictures.report.step import report
from xseg.runs.runtime import Runtime
from xseg.runs.target import Target

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<b>bold</b> & \"quoted\" 'name'",
    "{{class}} ${7*7} \\u003cscript>",
)


def dataset(directory: Path, images: int = 6, size: int = 32, classes: tuple[str, ...] = ()) -> Dataset:
    """A synthetic data set; with `classes`, those names and ids made of them, which no file has to carry."""
    write_synthetic(directory, images=images, classes=3, size=size, seed=1)
    found = open_dataset(str(directory), format=None, split=None)
    if not classes:
        return found
    items = [
        replace(item, id=f"{k} {classes[k % len(classes)].replace('/', '|')}") for k, item in enumerate(found.items)
    ]
    return replace(found, classes=classes, items=tuple(items))


def heatmaps(path: Path, data: Dataset, noise: float = 0.3, agnostic: bool = False) -> Path:
    """A map per class of each image's mask: 1 on the class, with noise, half as large as the image; or one of none."""

    def arrays(mask: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        ids = [k for k in range(1, len(data.classes) + 1) if (mask == k).any()] or [1]
        maps = np.stack([(mask[::2, ::2] == k) * (1 - noise) + noise * rng.random(mask[::2, ::2].shape) for k in ids])
        if agnostic:
            ids, maps = [-1], maps[:1]
        count = len(ids)
        return {
            "maps": maps.astype(np.float16),
            "maps/class_id": np.array(ids, np.int32),
            "maps/scale": np.arange(count, 0, -1, dtype=np.float32),
        }

    return _written(path, data, "heatmaps", arrays, {"signed": False, "class_specific": True, "map_size": "model"})


def masks(path: Path, data: Dataset, wrong: float = 0.2, parents: tuple[Parent, ...] = ()) -> Path:
    """The true masks with a share of the pixels replaced; image number k has k times as many as number 1."""

    def arrays(mask: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        share = wrong * rng.random()
        noise = rng.integers(0, len(data.classes) + 1, mask.shape)
        return {"masks": np.where(rng.random(mask.shape) < share, noise, mask).astype(np.uint8)}

    return _written(path, data, "masks", arrays, {}, parents)


def _written(path: Path, data: Dataset, kind: str, arrays, extra, parents=()) -> Path:
    work = WorkList.of(item.id for item in data.items)
    params = {"seed": 1, "note": HOSTILE[0]}
    header = Header(
        kind, data.classes, "crf" if kind == "masks" else "explain", params, parents=parents, extra=extra,
        root=str(data.root), work=work, created="2026-01-01T00:00:00+00:00", argv=("xseg", "crf", HOSTILE[0]),
    )  # fmt: skip
    records = []
    for index, item in enumerate(data.items):
        mask = data.read_mask(item)
        made = arrays(mask, np.random.default_rng(index))
        source = digest(data.read_bytes(item))
        labels = np.array([(mask == k).any() for k in range(1, len(data.classes) + 1)], np.uint8)
        records.append(Record(index, item.id, item.path, mask.shape, source, labels, made))
    with path.open("wb+") as file:
        encode(file, header, records)
    return path


def scores(path: Path, result: dict, **params: object) -> Path:
    header = Header("scores", tuple(result.get("classes", ("cat",))), "evaluate", params, created="2026-01-01")
    with path.open("wb+") as file:
        encode_result(file, header, json.dumps(result))
    return path


def perturbation_run(name: str, end: float) -> dict:
    """What `evaluate --protocol perturbation` says about one run, as far as its table and curves look."""
    steps = [k / 10 for k in range(11)]
    return {
        "input": name, "protocol": "perturbation", "split": "val", "images": 4, "missing": 0, "images_without_map": 0,
        "maps": 4, "method": "cam", "targets": None, "maps_of": None, "labels_given": True, "tie_fraction": 0.0,
        "activation": "sigmoid", "frame": [32, 32], "fill": "black", "score_against": "labels",
        "scores": {"positive": "hits"}, "steps": {"positive": steps},
        "curves": {"positive": [1 - k * (1 - end) / 10 for k in range(11)]},
        "auc_positive": 0.5, "auc_positive_interval": [0.4, 0.6], "differences": [],
    }  # fmt: skip


def page(path: Path, inputs: list[Path], truth: Dataset | None = None, **options: object) -> str:
    """The text of the page about the inputs."""
    report([str(name) for name in inputs], truth, GalleryOptions(**options), Runtime(Target(path=path), workers=1))
    return path.read_text()
