"""A segmenter as an ONNX file that runs without xseg and without torch, compared with xseg before it is written."""

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xseg.artifacts.header import Header
from xseg.classifier.sides import refused_steps, takes_one_size
from xseg.device import threads
from xseg.errors import Unavailable, UsageError
from xseg.seeding import generator
from xseg.segmenter.network import Segmenter

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CLOSE = 1e-3  # largest difference of a probability
_BATCH = 2  # images of the comparison; the file takes any number


class Deployed(nn.Module):
    """Colours in, probabilities out: what the file computes.

    Args:
        segmenter: in evaluation mode, on the CPU.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = deepcopy(segmenter)
        self.segmenter.backbone.trunk.leaves = False

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (N,C+1,H,W), background first, of RGB images (N,3,H,W) float32 in [0, 1]."""
        return self.segmenter(self.segmenter.normalise(images)).softmax(1)


def require_packages() -> None:
    """Check that what exports and what compares is installed.

    Raises:
        Unavailable: a package is missing; the message names the command that installs it.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(f"export to ONNX needs {', '.join(missing)}, not installed here", "pip install 'xseg[onnx]'")


def encode_onnx(segmenter: Segmenter, header: Header, content: str, size: tuple[int, int] | None = None) -> bytes:
    """A segmenter as the bytes of an ONNX file with the input `images` and the output `probabilities`, see `Deployed`.

    The number of images is free, their size is not. Classes, run and content stand in the file's metadata.

    Args:
        segmenter: in evaluation mode, on the CPU.
        header: of its artifact.
        content: of its artifact.
        size: height and width of the images; None: what the backbone was made for.

    Raises:
        UsageError: a size that the backbone does not take.
        Unavailable: a package is missing, or the file's probabilities differ from xseg's by more than `CLOSE`.
    """
    require_packages()
    height, width = size or segmenter.config.backbone.input_size
    _check_size(segmenter, (height, width))
    noise = generator(0, "onnx").random((_BATCH, 3, height, width), dtype="float32")
    module, images = Deployed(segmenter).eval(), torch.from_numpy(noise)
    known = {"classes": json.dumps(["background", *header.classes]), "run": header.run, "content": content}
    with threads(1), torch.no_grad():
        data = _encoded(module, images, known)
        expected = segmenter(segmenter.normalise(images)).softmax(1).numpy()
    apart = float(np.abs(_answer(data, noise) - expected).max())
    if not apart <= CLOSE:
        raise Unavailable(
            f"the ONNX file's probabilities differ from xseg's by {apart:.2g}, needed {CLOSE:g} or less",
            "try another version of onnxscript or onnxruntime, or another --input-size",
        )
    return data


def _check_size(segmenter: Segmenter, size: tuple[int, int]) -> None:
    config = segmenter.config
    own = config.backbone.input_size
    found = "x".join(map(str, size))
    if takes_one_size(segmenter.trunk) and size != own:
        needed = "x".join(map(str, own))
        raise UsageError(f"--input-size {found}: the backbone takes images of {needed} only", "leave it out")
    steps = refused_steps(segmenter.trunk)
    if any(side % step or side < config.smallest for side, step in zip(size, steps, strict=True)):
        raise UsageError(
            f"--input-size {found}: the backbone takes {config.smallest} pixels or more, in steps of {steps[0]}",
            f"for example {own[0]}x{own[1]}",
        )


def _encoded(module: nn.Module, images: Tensor, known: dict[str, str]) -> bytes:
    """The file's bytes; what the exporter says on the way is left out unless it fails."""
    told = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(told):
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                module,
                (images,),
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes={"images": {0: torch.export.Dim("count")}},
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise Unavailable(f"this torch cannot export the network to ONNX ({reason})", "try a newer torch") from error
    program.model.metadata_props.update(known)
    return program.model_proto.SerializeToString()


def _answer(data: bytes, images: np.ndarray) -> np.ndarray:
    """The probabilities by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images})[0]
