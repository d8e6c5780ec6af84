"""The step `crf`: heatmaps to confident labels or to refined heatmaps, or heatmaps or masks to masks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from xseg.artifacts.header import Header
from xseg.artifacts.record import Record
from xseg.device import cores, halving, resolve, threads
from xseg.errors import Status, UsageError
from xseg.heatmaps.quantise import joint_scale, stored_dtype
from xseg.labels.area import exponent, weight
from xseg.labels.area_step import find_thresholds
from xseg.labels.backends import resolve_backend
from xseg.labels.confident import confident_labels, confident_posteriors, threshold_labels
from xseg.labels.masks import Preparation, class_scores, most_probable, refine, refine_mask
from xseg.labels.meanfield import Backend, Kernels
from xseg.labels.pixel_adaptive import PixelAdaptive
from xseg.labels.pool import in_processes
from xseg.labels.refinement import DenseCrf, Refinement
from xseg.labels.shaping import shape_maps
from xseg.runs.images import execute
from xseg.runs.photographs import Photograph, Photographs, heatmaps_of
from xseg.runs.provenance import inherited, provenance
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource


@dataclass(frozen=True)
class CrfOptions:
    """What decides the labels, masks or refined heatmaps.

    Attributes:
        writes: the kind of the result.
        mode: confident labels from two background exponents (psa) or two constant scores (irn).
        alpha_low: psa's exponent of a generous background, from whose CRF the foreground is taken.
        alpha_high: psa's exponent of a strict background, from whose CRF the background is taken.
        thresholds: irn's background scores for foreground and background seeds.
        confidence: probability of a hard label before it is refined (irn's seeds; masks as input).
        background: constant background score for masks and heatmaps from maps without a background channel.
        alpha: exponent of (1 - max)^alpha instead of `background`.
        background_weight: factor on the background of maps that bring one, for masks and heatmaps.
        foreground_share: choose the background by area prior, one share in (0,1) for masks and heatmaps, two for
            labels: what is surely foreground, and what is not surely background.
        kernels: constants of the CRF.
        averages: refine by pixel-adaptive averages with these constants instead.
        preparation: how maps become scores.
        posteriors: also store both posteriors of psa's mode.
        dtype: of refined heatmaps; None: float16.
    """

    writes: Literal["pseudolabels", "masks", "heatmaps"] = "pseudolabels"
    mode: Literal["psa", "irn"] = "psa"
    alpha_low: float = 4.0
    alpha_high: float = 32.0
    thresholds: tuple[float, float] = (0.30, 0.05)
    confidence: float = 0.7
    background: float = 0.2
    alpha: float | None = None
    background_weight: float = 1.0
    foreground_share: tuple[float, ...] = ()
    kernels: Kernels = field(default_factory=Kernels)
    averages: PixelAdaptive | None = None
    preparation: Preparation = field(default_factory=Preparation)
    posteriors: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Refuse what does not belong together.

        Raises:
            UsageError: posteriors of anything but confident labels, an unknown dtype, a weight not above 0, or shares
                that do not fit what is written.
        """
        needed = 2 if self.writes == "pseudolabels" else 1
        if self.foreground_share and len(self.foreground_share) != needed:
            found = ",".join(f"{share:g}" for share in self.foreground_share)
            raise UsageError(
                f"--foreground-share {found}: {self.writes} need {'two numbers' if needed == 2 else 'one number'}",
                "for example --foreground-share 0.15,0.4" if needed == 2 else "for example --foreground-share 0.3",
            )
        if list(self.foreground_share) != sorted(self.foreground_share):
            raise UsageError("--foreground-share: the surely foreground share comes first, and is the smaller one")
        if not self.background_weight > 0:
            raise UsageError(f"--background-weight {self.background_weight}: needed a number above 0")
        if self.posteriors and self.writes != "pseudolabels":
            raise UsageError("--posteriors belongs to confident labels", "leave it out, or --masks or --heatmaps")
        stored_dtype(self.dtype, signed=False)

    @property
    def deciding(self) -> dict[str, object]:
        """Those that decide what is written, for the header."""
        of_labels = ("mode", "alpha_low", "alpha_high", "thresholds", "posteriors")
        unused = {
            "pseudolabels": ("background", "alpha", "background_weight", "dtype"),
            "masks": (*of_labels, "dtype"),
            "heatmaps": (*of_labels, "confidence"),
        }[self.writes]
        unused += ("averages",) if self.averages is None else ("kernels",)
        unused += () if self.foreground_share else ("foreground_share",)
        unused += ("background_weight",) if self.background_weight == 1 else ()
        values = asdict(self) | {"dtype": stored_dtype(self.dtype, signed=False)}
        return {key: value for key, value in values.items() if key not in unused}


def crf(inputs: Sequence[str], options: CrfOptions, backend: str, runtime: Runtime) -> Status:
    """Refine every image of `inputs`.

    Args:
        inputs: heatmaps, or to write masks also masks; paths or `-`.
        options: what decides the result.
        backend: name of the CRF's implementation, or `auto`; recorded, but results agree within 1e-4. Pixel-adaptive
            averages have but one.
        runtime: shared options.

    Raises:
        UsageError: unknown backend, or an area prior of a stream.
        BadInput: the wrong kind of artifact, images missing from it, or a foreground share that its maps do not allow.
    """
    options = _by_area(inputs, options, runtime)
    device = resolve(runtime.device)
    engine = resolve_backend(backend, device)
    if options.averages is None and not engine.accelerated:
        device = torch.device("cpu")
    kinds = ("heatmaps", "masks") if options.writes == "masks" else ("heatmaps",)
    source = RecordSource(
        inputs, kinds, allow_missing=runtime.allow_missing, shard=runtime.shard, notice=runtime.reporter.note
    )
    header = _header(source, options, backend, device, runtime)
    photographs = Photographs(source, runtime)

    with ExitStack() as stack:
        refinement = stack.enter_context(_parallel(options, engine, device, runtime))
        refine = _Refiner(options, refinement, device, len(header.classes))

        def refined(photograph: Photograph) -> Record:
            return halving(lambda some: [refine(one) for one in some], [photograph])[0]

        def solved(record: Record) -> Record | Photograph:
            return refined(photographs.of(record))

        # On the CPU the threads that load an image also solve it; an accelerator is fed by this thread alone.
        on_cpu = device.type == "cpu"

        def finished(loaded: Sequence[Record | Photograph]) -> list[Record]:
            return [one if isinstance(one, Record) else refined(one) for one in loaded]

        return execute(
            runtime,
            header,
            source,
            solved if on_cpu else photographs.of,
            finished,
            total=len(source.expected),
            carried=lambda: source.failures,
        )


def _by_area(inputs: Sequence[str], options: CrfOptions, runtime: Runtime) -> CrfOptions:
    """The options with the background that the area prior chose, where one is wanted."""
    if not options.foreground_share:
        return options
    labels = options.writes == "pseudolabels"  # they make their own background, whatever the maps hold
    found = find_thresholds(
        inputs,
        options.foreground_share,
        lambda maps: shape_maps(maps, options.preparation),
        runtime,
        weigh_background=not labels,
    )
    high, low = found.thresholds[0], found.thresholds[-1]
    if labels and options.mode == "irn":
        return replace(options, thresholds=(high, low))
    if labels:
        return replace(options, alpha_low=exponent(high), alpha_high=exponent(low))
    if found.own_background:
        return replace(options, background_weight=weight(high))
    return replace(options, alpha=exponent(high))


@contextmanager
def _parallel(options: CrfOptions, engine: Backend, device: torch.device, runtime: Runtime) -> Iterator[Refinement]:
    """One image per core: by threads where the backend releases the GIL, else by processes."""
    workers = max(1, cores() if runtime.workers is None else runtime.workers)
    refinement = options.averages or DenseCrf(options.kernels, engine)
    if device.type != "cpu":
        yield refinement
    elif options.averages is None and engine.parallel == "processes" and workers > 1:
        with in_processes(engine, workers) as pooled:
            yield DenseCrf(options.kernels, pooled)
    else:
        with threads(1):
            yield refinement


class _Refiner:
    """A photograph with its maps or mask to a record."""

    def __init__(self, options: CrfOptions, refinement: Refinement, device: torch.device, classes: int) -> None:
        self._options, self._refinement, self._device, self._classes = options, refinement, device, classes

    def __call__(self, photograph: Photograph) -> Record:
        image = torch.from_numpy(np.ascontiguousarray(photograph.image)).to(self._device)
        record = photograph.record
        if "masks" in record.arrays:
            mask = torch.from_numpy(record.arrays["masks"]).to(self._device)
            cleaned = refine_mask(mask, image, self._refinement, self._options.confidence)
            return replace(record, arrays={"masks": cleaned.cpu().numpy()})
        maps, class_id = heatmaps_of(record)
        write = self._confident if self._options.writes == "pseudolabels" else self._refined
        return replace(record, arrays=write(maps.to(self._device), class_id, image))

    def _refined(self, maps: torch.Tensor, class_id: torch.Tensor, image: torch.Tensor) -> dict[str, np.ndarray]:
        options = self._options
        constant = options.background if options.alpha is None else None
        factor = options.background_weight
        scores, ids = class_scores(maps, class_id, options.preparation, constant, options.alpha, factor)
        posterior = refine(scores, image, self._refinement)
        if options.writes == "masks":
            return {"masks": most_probable(posterior, ids, self._classes).cpu().numpy()}
        values, scale = joint_scale(posterior.cpu().numpy(), stored_dtype(options.dtype, signed=False))
        return {"maps": values, "maps/class_id": ids.cpu().numpy().astype(np.int32), "maps/scale": scale}

    def _confident(self, maps: torch.Tensor, class_id: torch.Tensor, image: torch.Tensor) -> dict[str, np.ndarray]:
        options = self._options
        foreground = class_id > 0  # pseudolabels make their own background, whatever the maps hold
        class_id = class_id[foreground]
        scores = shape_maps(maps[foreground.to(maps.device)], options.preparation)
        if options.mode == "irn":
            labels = threshold_labels(
                scores,
                class_id,
                image,
                self._refinement,
                options.thresholds,
                options.confidence,
                self._classes,
            )
            return {"labels": labels.cpu().numpy()}
        alphas = (options.alpha_low, options.alpha_high)
        low, high = confident_posteriors(scores, image, self._refinement, alphas)
        arrays = {"labels": confident_labels(low, high, class_id, classes=self._classes).cpu().numpy()}
        if options.posteriors:
            ids = np.concatenate([[0], class_id.numpy()]).astype(np.int32)
            for name, posterior in (("low", low), ("high", high)):
                arrays |= {name: posterior.half().cpu().numpy(), f"{name}/class_id": ids}
        return arrays


def _header(source: RecordSource, options: CrfOptions, backend: str, device: torch.device, runtime: Runtime) -> Header:
    of_heatmaps = {"signed": False, "class_specific": True, "map_size": "image"}
    known = {"backend": backend} if options.averages is None else {}
    return Header(
        options.writes,
        source.header.classes,
        "crf",
        options.deciding,
        parents=(source.parent,),
        argv=runtime.argv,
        extra=of_heatmaps if options.writes == "heatmaps" else {},
        provenance=provenance(device, None, **known) | inherited(source.header),
        root=source.header.root,
        work=source.header.work,
        shard=str(source.shard) if source.shard else "",
    )
