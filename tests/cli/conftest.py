"""A tiny data set and a tiny chain, made once through the real command line and used by every test here."""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.launch import Ended, Zygote, started
from xseg.datasets.synthetic import write_synthetic

TRAIN = ("--weights", "none", "--crop", 48, "--resize-low", 48, "--resize-high", 64, "--batch-size", 6)
MODEL = ("--model", "timm:test_efficientnet")
# Group norm and fixed statistics: what is learned does not depend on how a batch is split over processes.
SEGMENTER = ("--model", "timm:test_resnet", "--weights", "none", "--crop", 48, "--scale-low", 0.7, "--scale-high", 1.2,
             "--batch-size", 6, "--width", 32, "--norm", "group", "--freeze-bn")  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """Artifacts of the chain, by path, and how the command that made each ended."""

    directory: Path
    ended: dict[str, Ended]

    def __getattr__(self, name: str) -> Path:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.directory / ("data" if name == "data" else f"{name}.h5")


def commands(directory: Path) -> dict[str, tuple[object, ...]]:
    """What each artifact of the chain is made by."""
    at = {
        name: directory / f"{name}.h5"
        for name in ("cls", "cam", "labels", "affinity", "walk", "masks", "seg", "scores")
    }
    data = directory / "data"
    return {
        "cls": ("train-cls", data, *MODEL, *TRAIN, "--epochs", 2, "-o", at["cls"]),
        "cam": ("explain", at["cls"], data, "-o", at["cam"]),
        "labels": ("crf", at["cam"], "-o", at["labels"]),
        "affinity": ("affinity-train", at["labels"], at["cls"], "--epochs", 1, "--crop", 64, "--batch-size", 6,
                     "-o", at["affinity"]),
        "walk": ("random-walk", at["cam"], at["affinity"], "--log-steps", 3, "-o", at["walk"]),
        "masks": ("crf", at["walk"], "--masks", "-o", at["masks"]),
        "seg": ("train-seg", at["masks"], data, "--split", "train", *SEGMENTER, "--epochs", 2, "-o", at["seg"]),
        "scores": ("evaluate", at["masks"], "--dataset", data, "--json", "-o", at["scores"]),
    }  # fmt: skip


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, worker: str) -> Chain:
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if worker else base) / "xseg-chain"
    directory.mkdir(exist_ok=True)
    kept = directory / "ended.json"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several test processes makes it
        if not kept.exists():
            write_synthetic(directory / "data", images=24, classes=3, size=64, seed=5)
            done = {name: started(*command) for name, command in commands(directory).items()}
            kept.write_text(json.dumps({k: [v.args, v.status, v.stdout.decode(), v.stderr] for k, v in done.items()}))
    read = json.loads(kept.read_text())
    ended = {name: Ended(tuple(a), status, out.encode(), err) for name, (a, status, out, err) in read.items()}
    return Chain(directory, ended)


@pytest.fixture(scope="session")
def worker(request: pytest.FixtureRequest) -> str:
    """Name of this process among parallel ones, or nothing."""
    return getattr(request.config, "workerinput", {}).get("workerid", "")


@pytest.fixture(scope="session")
def run() -> Iterator[Zygote]:
    """Runs a command as a process of its own: `run("crf", cam, "-o", out, status=0)`."""
    zygote = Zygote()
    yield zygote
    zygote.close()
