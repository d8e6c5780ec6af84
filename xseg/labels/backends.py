"""The ways to run mean-field inference, by name; all give the same posteriors to 1e-4."""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xseg.errors import Unavailable
from xseg.labels.meanfield import (
    CACHED_PIXELS,
    Backend,
    Kernels,
    LatticeMeanField,
    colour_features,
    grid_features,
)
from xseg.registry import Registry

if TYPE_CHECKING:
    from xseg.labels.fused_lattice import FusedLattice

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


@BACKENDS.register("numba")
@dataclass
class NumbaMeanField:
    """The lattice as compiled loops on one CPU core; position lattices of the last few image sizes are kept.

    Attributes:
        cached_sizes: how many position lattices are kept.

    Raises:
        Unavailable: numba is not installed.
    """

    cached_sizes: int = 8
    parallel: ClassVar[Literal["threads", "processes"]] = "threads"
    accelerated: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Look for the package now, and start with an empty cache."""
        if importlib.util.find_spec("numba") is None:
            raise Unavailable(
                "--backend numba: the package is not installed", "pip install 'xseg[fast]', or choose --backend lattice"
            )
        self._kept = lru_cache(maxsize=self.cached_sizes)(_position_lattice)

    def infer(self, unary: Tensor, images: Tensor, kernels: Kernels) -> Tensor:
        """See `Backend.infer`."""
        from xseg.labels import fused

        height, width = unary.shape[3:]
        build = self._kept if height * width <= CACHED_PIXELS else _position_lattice
        near, compat = build(height, width, kernels.gaussian_sxy), (kernels.gaussian_compat, kernels.bilateral_compat)
        features = colour_features(images.cpu(), kernels.bilateral_sxy, kernels.bilateral_srgb).numpy()
        posteriors = [
            fused.infer(u, near, fused.normalised(f), compat, kernels.iterations)
            for u, f in zip(unary.cpu().flatten(3).contiguous().numpy(), features, strict=True)
        ]
        return torch.from_numpy(np.stack(posteriors)).reshape(unary.shape).to(unary.device)


def _position_lattice(height: int, width: int, sxy: float) -> "FusedLattice":
    from xseg.labels.fused import normalised

    return normalised(grid_features(height, width, sxy, torch.device("cpu")).reshape(-1, 2).numpy())


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
