"""The Python of docs/python.md runs, and the plug-in of docs/adding-a-method.md installs and explains."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.cli.launch import ROOT, started
from tests.cli.read import records

DOCS = ROOT / "docs"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_python_of_the_page_runs(chain, tmp_path, monkeypatch):
    for name in ("data", "cls", "cam"):
        (tmp_path / getattr(chain, name).name).symlink_to(getattr(chain, name))
    monkeypatch.chdir(tmp_path)
    names = {}
    found = blocks("python.md")
    assert len(found) > 4
    for block in found:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["part"].header.kind == "heatmaps"


def test_the_page_shows_the_plug_in_as_it_is():
    assert (DOCS / "plugin/xseg_saliency.py").read_text() in blocks("adding-a-method.md")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The directory that the plug-in was installed into, without a network."""
    pytest.importorskip("setuptools")
    source = shutil.copytree(DOCS / "plugin", tmp_path_factory.mktemp("source") / "plugin")
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=120)
    return {"PYTHONPATH": os.pathsep.join([str(target), str(ROOT)])}


def test_the_plug_in_is_listed_and_completed(installed):
    assert "saliency: largest absolute gradient" in started("methods", env=installed).stdout.decode()
    words = {"COMP_WORDS": "xseg explain --method sali", "COMP_CWORD": "3", "_XSEG_COMPLETE": "complete_bash"}
    program = [sys.executable, "-c", "import sys; sys.argv[0] = 'xseg'; from xseg.__main__ import main; main()"]
    offered = subprocess.run(program, env={**os.environ, **installed, **words}, capture_output=True, text=True)
    assert offered.stdout.split() == ["saliency"]


def test_the_plug_in_explains(installed, chain, tmp_path):
    out = tmp_path / "saliency.h5"
    command = ("explain", chain.cls, chain.data, "--limit", 2, "--dtype", "float32", "--method", "saliency", "-o", out)
    started(*command, env=installed)
    assert_equal_to_a_gradient(chain, out)


def assert_equal_to_a_gradient(chain, out):
    from xseg.classifier.step import load_classifier
    from xseg.datasets import decode_image, open_dataset

    _, _, classifier = load_classifier(str(chain.cls), torch.device("cpu"))
    dataset = open_dataset(str(chain.data))
    for item, record in zip(dataset.items, records(out), strict=False):
        pixels = torch.from_numpy(decode_image(dataset.storage.read(item.path), item.id)).permute(2, 0, 1)[None] / 255
        leaf = classifier.normalise(pixels).requires_grad_()
        for row, class_id in enumerate(record.arrays["maps/class_id"]):
            (gradient,) = torch.autograd.grad(classifier(leaf)[0, int(class_id) - 1], leaf)
            expected = gradient[0].abs().amax(0).numpy()
            found = record.arrays["maps"][row] * record.arrays["maps/scale"][row]
            np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
