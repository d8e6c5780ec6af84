"""What the demo types, and why each setting is what it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TRAIN_IMAGES_AND_VAL = 320  # 240 to learn from, 80 to score on


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


# A byobnet of 0.2 million weights learns from nothing in 15 epochs. Objects fill a third of a picture, so crops of 96
# of about 104 pixels leave them whole. Stride 16 halves the time of training; 1e-3 steps and weight decay are AdamW's.
_TRAIN = (
    "--model timm:test_byobnet --weights none --output-stride 16 --epochs 15 --batch-size 8 --crop 96 --resize-low 88"
    " --resize-high 120 --optimizer adamw --lr 0.003 --head-lr-multiplier 1 --weight-decay 0.05 --schedule cosine"
    " --warmup 0.1 --jitter 0.1"
)
# The same weights read at stride 8: maps twice as fine.
_VIEWS = "--output-stride 8 --flip"
# A CAM of such a network is above a tenth of its maximum on the whole object (the exponents say where a background of
# (1 - CAM)^alpha wins: 0.30 for 4 and 0.12 for 16). Kernels: psa's 80 pixels are a sixth of a VOC photograph, a sixth
# of these pictures is about 20; bodies are striped, so a colour distance of 20 must still count as near.
_LABELS = "--alpha-low 4 --alpha-high 16 --bilateral-sxy 20 --bilateral-srgb 20"
# Pictures of 100 pixels need a finer grid than psa's 8: every 4 pixels, from the stages that see colour and texture.
_AFFINITY = "--layers stem,stages.0,stages.1 --widths 16,32,32 --stride 4 --crop 96 --epochs 4 --lr 0.003 --jitter 0.1"
# The grid has 25 nodes a side where VOC at stride 8 has 60: 64 steps reach as far as psa's 256; a power of 16 keeps
# the walk inside outlines that are thinner than a node. The background's exponent is that of the seeds.
_WALK = "--beta 16 --log-steps 6 --alpha 12"
# Stronger pulls than above only where colours are nearly equal: the walked maps already cover the objects.
_MASKS = "--gaussian-sxy 2 --bilateral-sxy 30 --bilateral-srgb 13 --iterations 5"
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
