"""The ways to run mean-field inference, by name; all give the same posteriors to 1e-4."""

import importlib.util
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xseg.errors import Unavailable
from xseg.labels.meanfield import Backend, Kernels, LatticeMeanField
from xseg.registry import Registry

BACKENDS: Registry[Backend] = Registry("CRF backend", group="xseg.crf_backends")
BACKENDS.register("lattice")(LatticeMeanField)


@BACKENDS.register("pydensecrf")
@dataclass
class PyDenseCRF:
    """The published C++ code through its Python wrapper, on the CPU; it holds the GIL, so threads do not help.

    Raises:
        Unavailable: pydensecrf is not installed.
    """

    parallel: ClassVar[Literal["threads", "processes"]] = "processes"
    accelerated: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Look for the package now: one message at the start is better than one for every image."""
        if importlib.util.find_spec("pydensecrf") is None:
            raise Unavailable(
                "--backend pydensecrf: the package is not installed",
                "pip install 'xseg[crf]' (needs a C++ compiler), or choose --backend lattice",
            )

    def infer(self, unary: Tensor, images: Tensor, kernels: Kernels) -> Tensor:
        """See `Backend.infer`."""
        pictures = images.cpu().numpy()
        results = [self._terms(u, p, kernels) for u, p in zip(unary.cpu().numpy(), pictures, strict=True)]
        return torch.from_numpy(np.stack(results)).to(unary.device)

    @staticmethod
    def _terms(unary: NDArray[np.float32], image: NDArray[np.uint8], kernels: Kernels) -> NDArray[np.float32]:
        from pydensecrf.densecrf import DenseCRF2D

        _, labels, height, width = unary.shape
        crf = DenseCRF2D(width, height, labels)
        crf.addPairwiseGaussian(sxy=kernels.gaussian_sxy, compat=kernels.gaussian_compat)
        # The wrapper refuses read-only pictures and needs its arrays in C order.
        picture = np.array(image, order="C")
        bilateral = {"sxy": kernels.bilateral_sxy, "srgb": kernels.bilateral_srgb, "compat": kernels.bilateral_compat}
        crf.addPairwiseBilateral(rgbim=picture, **bilateral)
        posteriors = np.empty(unary.shape, np.float32)
        for energy, posterior in zip(unary, posteriors, strict=True):
            crf.setUnaryEnergy(np.ascontiguousarray(energy.reshape(labels, -1), np.float32))
            posterior[...] = np.asarray(crf.inference(kernels.iterations)).reshape(posterior.shape)
        return posteriors


def resolve_backend(name: str = "auto", device: torch.device | None = None) -> Backend:
    """The backend for `--backend`.

    Args:
        name: a registered name, or `auto`: the fastest that works on `device` and needs no compiler.
        device: where the arguments will be; None is the CPU.

    Raises:
        UsageError: no such name.
        Unavailable: its package is not installed.
    """
    if name != "auto":
        return BACKENDS.create(name)
    on_cpu = device is None or device.type == "cpu"
    return BACKENDS.create("numba" if on_cpu and importlib.util.find_spec("numba") else "lattice")
