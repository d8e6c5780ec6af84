"""What the steps of a chain cost in images, pixels and classes: python3 docs/recipes/scaling.py [--json].

Runs `explain`, `crf`, `affinity-train` (one epoch), `random-walk` and `evaluate` on drawn data with a small network of
random weights, one thread each, and takes the processor time of every command: that of processes is little disturbed by
other work. Along each axis the others stay as they are. Through three or more points a straight line is drawn by least
squares: its intercept is what a command costs before the first image, and the largest distance of a point from it, over
that point, says whether the cost is linear. XSEG is how xseg is called, as for the other recipes.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

XSEG = shlex.split(os.environ.get("XSEG", "xseg"))
IMAGES, SIDES, CLASSES = (16, 48, 96), (96, 136, 168, 192), (6, 12, 24)
SIDE, COUNT = 128, 32
MODEL = ("--model", "timm:test_efficientnet", "--weights", "none", "--init-only")
STEPS = ("explain", "crf", "affinity-train", "random-walk", "evaluate")


def spent(at: Path, *words: str) -> float:
    """Processor seconds of one command in the directory `at`, its threads and the processes it starts included."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*XSEG, *words, "-q"], cwd=at, env=alone, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{shlex.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def chain(at: Path, images: int, side: int, classes: int) -> dict[str, float]:
    """Processor seconds of every step for so many images of `side` x `side` pixels with maps of `classes` classes."""
    from xseg.datasets.synthetic import write_synthetic

    write_synthetic(at / "data", images=images, size=side)
    ids = [path.stem for path in sorted((at / "data/JPEGImages").iterdir())]
    # maps of as many classes as asked for, whatever is drawn: every image is said to show all of them
    names = [f"class{number}" for number in range(classes)]
    (at / "data/classes.txt").write_text("".join(f"{name}\n" for name in names))
    (at / "data/labels.csv").write_text("id,classes\n" + "".join(f"{name},{' '.join(names)}\n" for name in ids))
    (at / "data/ImageSets/Segmentation/every.txt").write_text("".join(f"{name}\n" for name in ids))
    data, alone = ("data", "--split", "every"), ("--workers", "1")
    learn = ("--epochs", "1", "--crop", str(side), "--batch-size", "4")
    spent(at, "train-cls", *data, *MODEL, "-o", "cls.h5")
    return {
        "explain": spent(at, "explain", "cls.h5", *data, *alone, "-o", "cam.h5"),
        "crf": spent(at, "crf", "cam.h5", *alone, "-o", "labels.h5"),
        "affinity-train": spent(at, "affinity-train", "labels.h5", "cls.h5", *learn, *alone, "-o", "affinity.h5"),
        "random-walk": spent(at, "random-walk", "cam.h5", "affinity.h5", *alone, "-o", "walk.h5"),
        "evaluate": spent(at, "evaluate", "walk.h5", "--dataset", *data, *alone, "--json"),
    }


def line(x: list[float], y: list[float]) -> dict[str, float]:
    """Slope, intercept, and the largest relative distance from the straight line through the points."""
    slope, intercept = np.polyfit(x, y, 1)
    off = np.abs(np.array(y) - (slope * np.array(x) + intercept)) / np.array(y)
    return {"each": float(slope), "start": float(intercept), "off": float(off.max())}


def main() -> None:
    """Measure and print."""
    found: dict[str, dict[str, dict[str, float]]] = {step: {} for step in STEPS}
    axes = {
        "images": [(count, count, SIDE, CLASSES[0]) for count in IMAGES],
        "megapixels": [(side**2 * COUNT / 1e6, COUNT, side, CLASSES[0]) for side in SIDES],
        "classes x images": [(classes * COUNT, COUNT, SIDE, classes) for classes in CLASSES],
    }
    for axis, points in axes.items():
        costs = []
        for _, images, side, classes in points:
            with tempfile.TemporaryDirectory() as directory:
                costs.append(chain(Path(directory), images, side, classes))
        for step in STEPS:
            found[step][axis] = line([x for x, *_ in points], [cost[step] for cost in costs])
    if "--json" in sys.argv:
        print(json.dumps(found, indent=1))
        return
    print(f"| step | {' | '.join(f'start, s; one of {axis}, ms; off the line' for axis in axes)} |")
    print("|" + "---|" * (len(axes) + 1))
    for step in STEPS:
        cells = [f"{a['start']:.2f}; {1e3 * a['each']:.1f}; {a['off']:.1%}" for a in found[step].values()]
        print(f"| `{step}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
