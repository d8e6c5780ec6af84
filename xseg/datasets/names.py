"""Names of files inside a data set: which are safe, which are images, which are shown."""

import re
from pathlib import Path, PurePosixPath

from xseg.errors import BadInput

MAX_BYTES = 1 << 30  # of one file inside: more is no photograph but a bomb
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".mat")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def safe_name(name: str, where: str) -> str:
    """`name` without `./`, refused if it could leave the root or break a listing.

    Args:
        name: a root-relative POSIX path.
        where: the file the name comes from, for the message.

    Raises:
        BadInput: absolute, empty, with `..` or with control characters.
    """
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if not parts or name.startswith("/") or ".." in parts or _CONTROL.search(name):
        needed = "a relative path without '..' and control characters"
        raise BadInput(f"{where}: found the name {name!r}, needed {needed}", "rename it, or leave it out")
    return "/".join(parts)


def is_archive(location: Path) -> bool:
    """Whether the suffix of `location` says tar, zip or MATLAB."""
    return location.name.lower().endswith(ARCHIVE_SUFFIXES)


def is_image(name: str) -> bool:
    """Whether the suffix is one of an image file that is read."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def without_suffix(name: str) -> str:
    """`name` without its image suffix; other dots stay."""
    return str(PurePosixPath(name).with_suffix("")) if is_image(name) else name


def is_shown(name: str) -> bool:
    """Whether no part of the path is hidden or one of the leftovers of macOS."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def check_size(name: object, size: int) -> None:
    """Refuse a file whose size no image needs.

    Raises:
        BadInput: more than `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise BadInput(f"{name}: {size} bytes, at most {MAX_BYTES} are read", "no single image needs that much")
