"""The step `report`: a page about a chain of artifacts, its scores and its images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xseg.artifacts.publish import check_writable, publish
from xseg.artifacts.stream import first_part
from xseg.datasets.index import Dataset
from xseg.errors import CannotCreate, Status, UsageError
from xseg.pictures.report.chain import Known, chain_of
from xseg.pictures.report.collect import GalleryOptions, Images
from xseg.pictures.report.gallery import gallery_json
from xseg.pictures.report.markup import element, joined
from xseg.pictures.report.names import short_names
from xseg.pictures.report.page import page
from xseg.pictures.report.provenance import drawing, in_words
from xseg.pictures.report.results import Scored, scored_of, section, side_by_side
from xseg.runs.images import final_status
from xseg.runs.runtime import Runtime
from xseg.scores.runs import open_runs
from xseg.version import __version__

_TITLE = 4  # artifacts that the title names
KINDS = ("heatmaps", "masks", "pseudolabels")
_MEASURE = (
    "The IoU below an image is the mean, over the background and every class that its truth or its prediction holds, of"
    " TP / (TP + FP + FN), counted over the pixels whose truth is known, at the size of the photograph. Heatmaps"
    " without background are predicted as evaluate does: the strongest class where it is above {threshold:g}."
)
_FOUND_BY = (
    "An image has a class if its labels, its truth or the label map of any run has it; if there are none of these, if"
    " it has a heatmap of it. A heatmap is the strongest of its image, or the one of the chosen class."
)


@dataclass(frozen=True)
class Reported:
    """What became of a report: exit status, images in it, bytes of the page."""

    status: Status
    images: int
    size: int


def report(inputs: Sequence[str], truth: Dataset | None, options: GalleryOptions, runtime: Runtime) -> Reported:
    """Write one HTML page about the inputs.

    Args:
        inputs: artifacts of any kind; the files of one run are taken together, several runs side by side.
        truth: a data set whose masks are the truth; only its images are shown.
        options: how images are drawn.
        runtime: shared options; `limit` counts images.

    Raises:
        BadInput: other classes in one run than in another or in the data set, images that are missing.
        CannotCreate: the page is there already, or cannot be created.
        UsageError: a data set, and nothing that could be compared with it.
    """
    path = runtime.target.path
    if path is not None:
        check_writable(path)
        if path.exists() and not runtime.overwrite:
            raise CannotCreate(f"{path} exists", "choose another -o, or use --overwrite")
    others, scores, drawn = _sorted_by_use(inputs)
    if truth is not None:
        truth.require_masks()
        if not drawn:
            raise UsageError("--dataset, but no heatmaps, masks or pseudolabels", "give some, or leave --dataset out")
    runs = open_runs(drawn, KINDS, runtime)
    images = Images(truth, options, runtime)
    for opened in runs:
        images.add(opened)
    images.failed.tell_repeated()
    others += [Known(opened.heading, opened.source.header, opened.source.parent.content) for opened in runs]
    known = sorted(others, key=lambda one: inputs.index(one.name))
    text = _page(known, scores, images, options).encode()
    _write(text, runtime)
    status = final_status(len(images.failed), runtime.max_failures)
    return Reported(status, len(images.pictures()), len(text))


def _sorted_by_use(inputs: Sequence[str]) -> tuple[list[Known], list[Scored], list[str]]:
    """Inputs that are not images, in order; the scores among them; and the names of those that are, `-` included."""
    known: list[Known] = []
    scores: list[Scored] = []
    drawn: list[str] = []
    for name in inputs:
        if name == "-":
            drawn.append(name)
            continue
        with first_part(name) as part:
            header = part.header
            if header.kind in KINDS:
                drawn.append(name)
                continue
            known.append(Known(name, header, part.stored_content()))
            if header.kind == "scores":
                scores.append(scored_of(name, header.params, part.result()))
    return known, scores, drawn


def _page(known: Sequence[Known], scores: Sequence[Scored], images: Images, options: GalleryOptions) -> str:
    nodes = chain_of(known)
    words = (
        "From left to right; a dashed box is only named as an input of others. Below, each step with its parameters."
    )
    chain = element("div", drawing(nodes), class_="scroll chain-holder", role="region", aria_label="Chain", tabindex=0)
    sections = {"Chain": joined([element("p", words, class_="note"), chain, in_words(nodes)])}
    told = [{**run, "input": ""} for scored in scores for _, run in scored.rows]
    own = [row for row in images.rows if {**row[1], "input": ""} not in told]
    tables = side_by_side([*([Scored("the images below", {}, own)] if own else []), *scores])
    if tables:
        sections["Scores"] = joined(section(scored) for scored in tables)
    pictures = images.pictures()
    facts = [_count(len(known), "artifact") + f", shown by xseg {__version__}."]
    gallery: dict[str, Any] | None = None
    if pictures:
        gallery = gallery_json(images.classes, short_names(images.headings), pictures)
        size = sum(map(len, gallery["pictures"])) / 1e6
        notes = [_MEASURE.format(threshold=options.threshold), _FOUND_BY] if images.rows else [_FOUND_BY]
        sections["Images"] = joined(element("p", note, class_="note") for note in notes)
        facts.append(
            f"{_count(len(pictures), 'image')}, {_count(len(images.headings), 'run')}, {size:.1f} MB of pictures."
        )
    return page(f"xseg report: {_listed([one.name for one in known])}", facts, sections, gallery)


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown, more = short_names(names)[:_TITLE], len(names) - _TITLE
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _write(data: bytes, runtime: Runtime) -> None:
    target = runtime.target
    if target.path is not None:
        publish(target.path, lambda file: file.write(data), overwrite=runtime.overwrite)
        return
    handle = target.file if target.pipe is None else target.pipe
    assert handle is not None
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(data)
