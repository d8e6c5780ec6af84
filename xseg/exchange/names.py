"""File names made from image ids, which may come from anyone's artifact."""

from pathlib import Path

from xseg.errors import BadInput

NAME_BYTES = 255


def output_path(directory: Path, image_id: str, suffix: str) -> Path:
    """`directory/image_id + suffix`; an id with slashes names a file in subfolders, never one outside.

    Args:
        directory: root of everything that is written.
        image_id: root-relative POSIX path without suffix.
        suffix: ".png" and the like.

    Raises:
        BadInput: an id that is empty, absolute, holds `.` or `..` parts, a backslash, colon or control character, is
            too long for a file name, or leads outside through a link.
    """
    parts = image_id.split("/")
    named = all(part not in ("", ".", "..") for part in parts)
    plain = all(character.isprintable() and character not in "\\:" for character in image_id)
    short = all(len((part + suffix).encode()) <= NAME_BYTES for part in parts)
    path = directory / (image_id + suffix)
    if not (named and plain and short):
        raise BadInput(
            f"image id {image_id!r} cannot name a file below {directory}",
            "ids are relative paths with '/' between plain names",
        )
    if not path.resolve().is_relative_to(directory.resolve()):
        raise BadInput(f"image id {image_id!r} leads outside {directory} through a link", "write to another directory")
    return path
