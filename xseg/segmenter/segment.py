"""The step `segment`: segmenter and data set in, masks or posteriors out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xseg.artifacts.header import Header, Parent, WorkList
from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset
from xseg.device import resolve, uses_amp
from xseg.errors import Status, UsageError
from xseg.heatmaps.batches import default_batch_size
from xseg.heatmaps.quantise import joint_scale, stored_dtype
from xseg.heatmaps.step import Labels
from xseg.labels.backends import resolve_backend
from xseg.labels.masks import most_probable, refine, shares
from xseg.labels.meanfield import Backend, Kernels
from xseg.labels.refinement import DenseCrf
from xseg.runs.given import Given, jobs_of, reader
from xseg.runs.images import execute
from xseg.runs.provenance import provenance
from xseg.runs.runtime import Runtime
from xseg.segmenter.network import Segmenter
from xseg.segmenter.posterior import Looks, posteriors, views_of
from xseg.segmenter.step import load_segmenter

_WINDOW = 4  # batches looked ahead, so that images of equal size find each other


@dataclass(frozen=True)
class SegmentOptions:
    """What decides the masks or posteriors.

    Attributes:
        looks: scales, flip, windows.
        targets: which classes an image may hold, beside the background: `all`, or those of its image-level `labels`.
        writes: the kind of the result.
        crf: whether the CRF with its published constants refines the posterior.
        least: classes whose probability stays below this everywhere in an image are left out of its heatmaps and of
            its CRF; the background stays.
        dtype: of heatmaps; None: float16.
    """

    looks: Looks = field(default_factory=Looks)
    targets: Literal["all", "labels"] = "all"
    writes: Literal["masks", "heatmaps"] = "masks"
    crf: bool = False
    least: float = 0.01
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise UsageError(f"--least {self.least}: needed a number in [0, 1)")
        if self.dtype is not None and self.writes == "masks":
            raise UsageError(f"--dtype {self.dtype} belongs to --heatmaps", "leave it out")
        stored_dtype(self.dtype, signed=False)

    @property
    def deciding(self) -> dict[str, object]:
        """Those that decide what is written, for the header."""
        decided = {**asdict(self), "dtype": stored_dtype(self.dtype, signed=False)}
        if self.crf:
            decided["kernels"] = asdict(Kernels())
        unused: tuple[str, ...] = {"masks": ("dtype",) if self.crf else ("dtype", "least"), "heatmaps": ()}[self.writes]
        unused += ("targets",) if self.targets == "all" else ()
        return {key: value for key, value in decided.items() if key not in unused}


def segment(source: str, dataset: Dataset, options: SegmentOptions, backend: str, runtime: Runtime) -> Status:
    """Write the mask, or the posterior, of every image.

    Args:
        source: path of the segmenter, or `-`.
        dataset: images.
        options: what decides the result.
        backend: name of the CRF's implementation, or `auto`.
        runtime: shared options.

    Raises:
        UsageError: looks that the backbone does not take, or an unknown backend.
        BadInput: not a segmenter; with targets by labels, labels that are missing or that it does not know.
    """
    device = resolve(runtime.device)
    _, content, segmenter = load_segmenter(source, device)
    views_of(segmenter, options.looks)
    engine = resolve_backend(backend, device) if options.crf else None
    labels = Labels(dataset, segmenter.config.classes)
    if options.targets == "labels":
        labels.require("segmenter", "--targets all")
    header = _header(Parent("segmenter", content), segmenter, dataset, options, backend, runtime, device)
    work = _Segmented(segmenter, engine, options, header.params["amp"], runtime)
    jobs = jobs_of(dataset, runtime.shard)
    read = reader(dataset, labels.of)
    return execute(runtime, header, jobs, read, work, total=len(jobs), batch_size=work.window)


class _Segmented:
    """Windows of photographs to records."""

    def __init__(
        self, segmenter: Segmenter, engine: Backend | None, options: SegmentOptions, amp: bool, runtime: Runtime
    ) -> None:
        self.batch_size = runtime.batch_size or default_batch_size(segmenter)
        self.window = 1 if self.batch_size == 1 else _WINDOW * self.batch_size
        self._segmenter, self._engine, self._options, self._amp = segmenter, engine, options, amp
        self._classes = len(segmenter.config.classes)

    def __call__(self, window: Sequence[Given]) -> list[Record]:
        images = [given.image for given in window]
        found = posteriors(self._segmenter, images, self._options.looks, batch_size=self.batch_size, amp=self._amp)
        return [given.record(self._arrays(one, given)) for given, one in zip(window, found, strict=True)]

    def _arrays(self, posterior: Tensor, given: Given) -> dict[str, np.ndarray]:
        options, image = self._options, given.image
        ids = torch.arange(len(posterior), device=posterior.device)
        if options.targets == "labels":
            ids = possible(given.labels).to(posterior.device)
            posterior = shares(posterior[ids])
        if options.crf or options.writes == "heatmaps":
            rows = present(posterior, options.least)
            posterior, ids = posterior[rows], ids[rows]
        if self._engine is not None:
            posterior, ids = self._refined(self._engine, posterior, ids, image)
        if options.writes == "masks":
            return {"masks": most_probable(posterior, ids, self._classes).cpu().numpy()}
        values, scale = joint_scale(posterior.cpu().numpy(), stored_dtype(options.dtype, signed=False))
        return {"maps": values, "maps/class_id": ids.cpu().numpy().astype(np.int32), "maps/scale": scale}

    def _refined(self, engine: Backend, posterior: Tensor, ids: Tensor, image: np.ndarray) -> tuple[Tensor, Tensor]:
        device = posterior.device if engine.accelerated else torch.device("cpu")
        picture = torch.from_numpy(np.ascontiguousarray(image)).to(device)
        return refine(posterior.to(device), picture, DenseCrf(Kernels(), engine)), ids.to(device)


def possible(labels: np.ndarray) -> Tensor:
    """Ids of the background and of the classes of an image.

    Args:
        labels: (C,) uint8, 1 present, 0 absent.

    Returns:
        (K + 1,) int64, ascending.
    """
    return torch.from_numpy(np.flatnonzero(np.concatenate([[1], labels])).astype(np.int64))


def present(posterior: Tensor, least: float) -> Tensor:
    """Rows of the background and of the classes that somewhere have a probability of `least` or more.

    Args:
        posterior: (K + 1,H,W), background first.
        least: in [0, 1).

    Returns:
        (L,) int64, ascending.
    """
    found = posterior.amax((1, 2)) >= least
    found[0] = True
    return found.nonzero()[:, 0]


def _header(
    parent: Parent,
    segmenter: Segmenter,
    dataset: Dataset,
    options: SegmentOptions,
    backend: str,
    runtime: Runtime,
    device: torch.device,
) -> Header:
    of_heatmaps = {"signed": False, "class_specific": True, "map_size": "image"}
    known = {"backend": backend} if options.crf else {}
    return Header(
        options.writes,
        segmenter.config.classes,
        "segment",
        {**options.deciding, "amp": uses_amp(device, runtime.amp)},
        parents=(parent,),
        argv=runtime.argv,
        extra=of_heatmaps if options.writes == "heatmaps" else {},
        provenance=provenance(device, dataset, labels_given=options.targets == "labels", **known),
        root=str(dataset.root.absolute()),
        work=WorkList.of(item.id for item in dataset.items),
        shard=str(runtime.shard) if runtime.shard else "",
    )
