"""Small data sets written as real files."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def index_mask(seed: int, classes: int, height: int = 12, width: int = 16) -> np.ndarray:
    mask = np.random.default_rng(seed).integers(0, classes + 1, (height, width)).astype(np.uint8)
    mask[0, 0] = 255
    return mask


def annotation(*names: str) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{k % 2}</difficult><part><name>head</name></part></object>"
        for k, name in enumerate(names)
    )
    return f"<?xml version='1.0'?><annotation><filename>a.jpg</filename>{objects}</annotation>"


def voc_files() -> dict[str, bytes | str]:
    files: dict[str, bytes | str] = {
        "classes.txt": "cat\ndog\n",
        "ImageSets/Segmentation/train.txt": "b\na\n",
        "ImageSets/Segmentation/val.txt": "c\n",
        "labels.csv": "id,classes\na,dog cat\nb,\nc,cat\n",
    }
    for k, stem in enumerate("abc"):
        files[f"JPEGImages/{stem}.png"] = png(pixels(k))
        files[f"SegmentationClass/{stem}.png"] = png(index_mask(k, 2))
    return files


def as_tar(root: Path, target: Path, mode: str = "w", prefix: str = ".") -> Path:
    with tarfile.open(target, mode) as tar:
        tar.add(root, prefix)
    return target


def as_zip(root: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, prefix + path.relative_to(root).as_posix())
    return target
