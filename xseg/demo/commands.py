"""What the demo types, and why each setting is what it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IMAGES = 320  # 240 to learn from, 80 to score on


@dataclass(frozen=True)
class Step:
    """One command line.

    Attributes:
        arguments: after `xseg`.
        output: the artifact or directory it makes; None for `evaluate`, whose JSON is the result.
        scores: for `evaluate`: the stages that its runs belong to, in order.
    """

    arguments: tuple[str, ...]
    output: Path | None = None
    scores: tuple[str, ...] = ()


# A network of 0.2 million weights learns from nothing in 15 epochs (some 40 seconds on one core). Crops of 96 hold
# most of a picture of about 100 pixels; stride 16 makes a step half as dear as 8; jitter is weak because the colours
# of heads are what tells classes. AdamW: SGD reached a higher average precision but heatmaps of heads alone.
_TRAIN = (
    "--model timm:test_byobnet --weights none --output-stride 16 --epochs 15 --batch-size 8 --crop 96 --resize-low 88"
    " --resize-high 120 --optimizer adamw --lr 0.003 --head-lr-multiplier 1 --weight-decay 0.05 --schedule cosine"
    " --warmup 0.1 --jitter 0.1"
)
# The same weights read at stride 8: maps twice as fine.
_VIEWS = "--output-stride 8 --flip"
# Exponents follow the seeds: (1 - CAM)^alpha equals the CAM at 0.38 for 2 and at 0.19 for 8, and these seeds score
# best at a threshold between the two (psa's 4 and 32 mean 0.28 and 0.07: its seeds are lower). Kernels: psa's 80
# pixels are a sixth of a VOC photograph, a sixth of these pictures is about 20; bodies are striped, so colours may
# differ by more than psa's 13 levels.
_LABELS = "--alpha-low 2 --alpha-high 8 --bilateral-sxy 20 --bilateral-srgb 20"
# Pictures of 100 pixels need a finer grid than psa's 8, read from the stages that see colour and texture.
_AFFINITY = "--layers stem,stages.0,stages.1 --widths 16,32,32 --stride 4 --crop 96 --epochs 4 --lr 0.003 --jitter 0.1"
# The grid has 25 nodes a side where VOC at stride 8 has 60, and a walk's reach grows with the root of its steps: 16
# instead of psa's 256. The background's exponent lies between those of the labels.
_WALK = "--beta 8 --log-steps 4 --alpha 6"
# The walked maps are right within a node or two: the kernels need not reach further than some 15 pixels, nor pull
# hard enough to take the thin parts of an object.
_MASKS = "--gaussian-sxy 2 --bilateral-sxy 15 --bilateral-srgb 13 --bilateral-compat 5 --iterations 5"
PICTURES = 24


def data_directory(directory: Path) -> Path:
    """Where the synthetic data set is written."""
    return directory / "data"


def steps(directory: Path) -> Iterator[Step]:
    """The demo's commands in order; every file they name lies in `directory`."""
    data = str(data_directory(directory))
    at = {
        name: directory / f"{name}.h5"
        for name in ("classifier", "cam-train", "cam-val", "labels", "affinity", "walk", "masks", "centre-prior")
    }

    def made(name: str, *arguments: str | Path, settings: str = "") -> Step:
        words = (*map(str, arguments), *settings.split(), "-o", str(at[name]))
        return Step(words, at[name])

    yield made("classifier", "train-cls", data, settings=_TRAIN)
    yield made("cam-train", "explain", at["classifier"], data, "--split", "train", settings=_VIEWS)
    yield made("cam-val", "explain", at["classifier"], data, "--split", "val", settings=_VIEWS)
    yield made("labels", "crf", at["cam-train"], settings=_LABELS)
    yield made("affinity", "affinity-train", at["labels"], at["classifier"], settings=_AFFINITY)
    yield made("walk", "random-walk", at["cam-val"], at["affinity"], settings=_WALK)
    yield made("masks", "crf", at["walk"], "--masks", settings=_MASKS)
    prior = ("--split", "val", "--method", "centre-prior")
    yield made("centre-prior", "explain", at["classifier"], data, *prior)
    truth = ("--dataset", data, "--split", "val", "--json")
    tuned = ("--tune-on", "train", "--tune-with", str(at["cam-train"]))
    yield Step(("evaluate", str(at["cam-val"]), *tuned, *truth), scores=("seed",))
    others = tuple(str(at[name]) for name in ("centre-prior", "walk", "masks"))
    yield Step(("evaluate", *others, *truth), scores=("centre-prior", "walk", "masks"))
    for name in ("cam-val", "walk", "masks"):
        pictures = directory / "pictures" / name
        drawn = ("--dataset", data, "--split", "val", "--limit", str(PICTURES))
        yield Step(("show", str(at[name]), *drawn, "--overwrite", "-o", str(pictures)), pictures / "sheet.png")
