"""A tiny data set, an untrained classifier of it and heatmaps, made by the steps themselves, once per process."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.classifier.nets import MODEL
from xseg.classifier.step import ModelOptions
from xseg.classifier.step import train as wrap
from xseg.datasets import open_dataset
from xseg.datasets.index import Dataset
from xseg.datasets.synthetic import write_synthetic
from xseg.heatmaps.step import ExplainOptions, explain
from xseg.runs.runtime import Runtime
from xseg.runs.target import Target


def runtime(path=None, **options):
    return Runtime(target=Target(path=path), device="cpu", workers=0, **options)


@dataclass(frozen=True)
class Made:
    directory: Path
    dataset: Dataset

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return str(self.directory / f"{name}.h5")


@pytest.fixture(scope="session")
def factories():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XSEG_FACTORIES", MODEL)
        patch.delenv("XSEG_IMAGES", raising=False)
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory, factories):
    directory = tmp_path_factory.mktemp("protocols")
    write_synthetic(directory / "data", images=10, classes=3, size=72, seed=3)
    dataset = open_dataset(directory / "data")
    made = Made(directory, dataset)
    for name, seed in (("cls", 0), ("other", 1)):
        wrap(dataset, ModelOptions(MODEL, "none"), None, None, runtime(directory / f"{name}.h5", seed=seed))
    for name, options in {
        "cam": ExplainOptions("cam", ("relu=false",)),
        "gradient": ExplainOptions("input-x-gradient", scales=(1.0, 0.5), flip=True, map_size="model"),
        "random": ExplainOptions("random"),
        "rough": ExplainOptions("cam", dtype="uint8", map_size=(20, 24), targets="all"),
    }.items():
        explain(made.cls, dataset, options, runtime(directory / f"{name}.h5"))
    return made
