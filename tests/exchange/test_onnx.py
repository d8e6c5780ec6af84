import importlib.util
import json

import numpy as np
import pytest
import torch

from tests.segmenter.nets import CLASSES, segmenter
from xseg.artifacts.header import Header
from xseg.errors import Status, Unavailable, UsageError
from xseg.exchange import onnx as exchange
from xseg.exchange.onnx import PACKAGES, encode_onnx, require_packages

MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
installed = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'xseg[onnx]')")
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
HEADER = Header("segmenter", CLASSES, "train-seg", {})


@pytest.mark.slow
@installed
@quiet
@pytest.mark.parametrize(("model", "size"), [("timm:test_resnet", (65, 97)), ("timm:test_vit", None)])
def test_the_file_computes_the_probabilities_of_the_segmenter_for_any_number_of_images(model, size):
    import onnx

    made = segmenter(model).eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    data = encode_onnx(made, HEADER, "content", size)
    height, width = size or made.config.backbone.input_size
    for count in (1, 3):
        images = np.random.default_rng(count).random((count, 3, height, width), dtype="float32")
        with torch.no_grad():
            expected = made(made.normalise(torch.from_numpy(images))).softmax(1)
        np.testing.assert_allclose(exchange._answer(data, images), expected, atol=1e-3)
    known = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert json.loads(known["classes"]) == ["background", *CLASSES]
    assert (known["run"], known["content"]) == (HEADER.run, "content")
    assert made.backbone.trunk.leaves
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in before.items())


@pytest.mark.slow
@installed
@quiet
def test_a_file_that_computes_something_else_is_not_written(monkeypatch):
    answer = exchange._answer
    monkeypatch.setattr(exchange, "_answer", lambda data, images: answer(data, images) + np.float32(0.002))
    with pytest.raises(Unavailable, match=r"differ from xseg's by 0\.002, needed 0\.001"):
        encode_onnx(segmenter("timm:test_resnet").eval(), HEADER, "content", (64, 64))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found("json"))
    with pytest.raises(Unavailable, match=r"needs onnxscript, not installed") as refused:
        require_packages()
    assert refused.value.status == Status.UNAVAILABLE == 69
    assert refused.value.hint == "pip install 'xseg[onnx]'"


@pytest.mark.parametrize(("model", "size"), [("timm:test_vit", (40, 64)), ("timm:test_resnet", (16, 64))])
def test_sizes_that_the_backbone_does_not_take_are_refused(monkeypatch, model, size):
    monkeypatch.setattr(exchange, "require_packages", lambda: None)
    with pytest.raises(UsageError, match=f"--input-size {size[0]}x{size[1]}"):
        encode_onnx(segmenter(model).eval(), HEADER, "content", size)
