"""What `info` tells about an artifact and what `validate` checks."""

from collections.abc import Iterator
from typing import Any

from xseg.artifacts.decode import Part
from xseg.artifacts.schema import KINDS


def describe(part: Part) -> dict[str, Any]:
    """The facts about one part, ready for JSON."""
    header = part.header
    facts: dict[str, Any] = {
        "kind": header.kind,
        "format_version": header.version,
        "made_by": f"xseg {header.command} ({header.xseg_version}, {header.created})",
        "command": list(header.argv),
        "classes": list(header.classes),
        "params": dict(header.params),
        "parents": [parent.to_json() for parent in header.parents],
        "run": header.run,
        "content": part.stored_content(),
        "provenance": dict(header.provenance),
    }
    if header.work:
        facts |= {
            "images": len(part),
            "total": header.work.total,
            "shard": header.shard,
            "failures": [{"index": f.index, "id": f.id, "reason": f.reason} for f in part.failures],
            "root": header.root,
            "arrays": part.array_dtypes(),
            **header.extra,
        }
    elif KINDS[header.kind].weights:
        facts["config"] = part.config()
        facts["weights"] = {key: list(array.shape) for key, array in part.weights().items()}
    else:
        facts["result"] = part.result()
    return facts


def problems(part: Part) -> Iterator[str]:
    """Everything wrong with an opened part: each image's digest and values, then the whole.

    Raises:
        BadInput: values that cannot be read at all.
    """
    widths: dict[int, str] = {}
    for position in range(len(part) if part.header.work else 0):
        record = part.record(position)
        if part.header.kind == "heatmaps":
            yield from _map_problems(record.id, record.arrays, len(part.header.classes))
        if part.header.kind == "features":
            widths.setdefault(len(record.arrays["latent"]), record.id)
    if len(widths) > 1:
        (one, name), (other, its) = list(widths.items())[:2]
        yield f"{name} has a vector of {one} numbers, {its} one of {other}"
    if len(set(part.ids if part.header.work else ())) < (len(part) if part.header.work else 0):
        yield "an id is there twice"
    if part.content() != part.stored_content():
        yield "the attribute content does not match the data"


def _map_problems(name: str, arrays: dict[str, Any], classes: int) -> Iterator[str]:
    values, class_id = arrays["maps"], arrays["maps/class_id"]
    if values.dtype.kind == "f" and values.size and abs(values).max() > 1:
        yield f"{name}: a map leaves [-1, 1]"
    if ((class_id < -1) | (class_id > classes)).any() or len(set(class_id.tolist())) < len(class_id):
        yield f"{name}: class ids {class_id.tolist()} are not distinct ids of -1..{classes}"
