"""What a result was made with: recorded for people, never part of a run's identity."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from xseg.artifacts.header import Header
from xseg.datasets.index import Dataset
from xseg.device import describe
from xseg.version import __version__

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "h5py", "pillow")


def provenance(device: torch.device | None = None, dataset: Dataset | None = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Versions, hardware and the data set's split, ready for JSON.

    Args:
        device: where the step runs.
        dataset: whose format, split and image count are recorded.
        more: further entries.
    """
    record: dict[str, Any] = {"versions": {"xseg": __version__, "python": platform.python_version(), **_versions()}}
    if device is not None:
        record["device"] = describe(device)
    if dataset is not None:
        record["dataset"] = {
            "format": dataset.format,
            "split": dataset.split,
            "images": len(dataset),
            "has_labels": dataset.has_labels,
        }
    return record | more


def inherited(header: Header) -> dict[str, Any]:
    """What a step passes on from its input: which data set and split, and whether labels chose the classes."""
    return {key: header.provenance[key] for key in ("dataset", "labels_given") if key in header.provenance}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
