"""Mean-field inference in a fully connected CRF (Kraehenbuehl and Koltun 2011, arXiv:1210.5644)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from xseg.labels.lattice import Lattice, blur
from xseg.shapes import check_shapes

SMALLEST = 1e-5  # probabilities below cost no more than this one
TINY = 1e-20  # keeps the square root of a kernel's row sum above zero
CACHED_PIXELS = 2**20  # position lattices of larger images are built anew, they would fill the memory


@dataclass(frozen=True)
class Kernels:
    """The two pairwise terms: pixels nearby, and pixels of similar colour not far away. Defaults are those of psa.

    Attributes:
        gaussian_sxy: standard deviation of the position-only kernel, pixels.
        gaussian_compat: its weight.
        bilateral_sxy: standard deviation in position of the colour kernel, pixels.
        bilateral_srgb: standard deviation in colour, levels of 0..255.
        bilateral_compat: its weight.
        iterations: mean-field steps; 0 returns the normalised unary.
    """

    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 80.0
    bilateral_srgb: float = 13.0
    bilateral_compat: float = 10.0
    iterations: int = 10

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            ValueError: a deviation that is not above zero, a weight or a number of iterations below zero.
        """
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, needed more than 0")
        for name in ("gaussian_compat", "bilateral_compat", "iterations"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, needed 0 or more")


class Backend(Protocol):
    """One way to compute the same posteriors.

    Attributes:
        parallel: what makes several images go faster on several cores; threads where the work releases the GIL.
        accelerated: whether it works on the device of its arguments; else everything passes through the CPU.
    """

    parallel: ClassVar[Literal["threads", "processes"]]
    accelerated: ClassVar[bool]

    def infer(self, unary: Tensor, images: Tensor, kernels: Kernels) -> Tensor:
        """Posteriors (B,A,L,H,W) float32 of `unary` (B,A,L,H,W) float32 over `images` (B,H,W,3) uint8."""


def mean_field(probabilities: Tensor, image: Tensor, kernels: Kernels, backend: Backend) -> Tensor:
    """Posteriors of several unary terms of one image, which share the image's lattices.

    Q starts at softmax(-U), U = -log(clip(p, 1e-5, 1)), and each step sets Q to softmax(-U + sum_k w_k D_k^-1/2 K_k
    D_k^-1/2 Q), D_k the row sums of the kernel K_k. Probabilities are not made to sum to 1 first.

    Args:
        probabilities: (A,L,H,W) float32 in [0,1]: A unary terms over L labels.
        image: (H,W,3) uint8 RGB on the same device.
        kernels: the pairwise terms.
        backend: as from `resolve_backend`.

    Returns:
        (A,L,H,W) float32, summing to 1 over L; one label alone gives ones.

    Raises:
        ValueError: shapes that do not fit, no label, or an image that is not uint8.
    """
    check_shapes(probabilities=(probabilities, "A L H W"), image=(image, "H W 3"))
    return mean_field_batch(probabilities[None], image[None], kernels, backend)[0]


def mean_field_batch(probabilities: Tensor, images: Tensor, kernels: Kernels, backend: Backend) -> Tensor:
    """`mean_field` of several images of one size at once; each result is that of the image alone.

    Args:
        probabilities: (B,L,H,W), or (B,A,L,H,W) for A unary terms an image; float32 in [0,1].
        images: (B,H,W,3) uint8 RGB on the same device.
        kernels: the pairwise terms.
        backend: as from `resolve_backend`.

    Returns:
        Posteriors float32 in the shape of `probabilities`.

    Raises:
        ValueError: as for `mean_field`.
    """
    terms = probabilities[:, None] if probabilities.ndim == 4 else probabilities
    sizes = check_shapes(probabilities=(terms, "B A L H W"), images=(images, "B H W 3"))
    if images.dtype != torch.uint8 or not terms.numel():
        raise ValueError(f"found {images.dtype} images and scores {tuple(terms.shape)}, needed uint8 and some labels")
    if sizes["L"] == 1:
        return torch.ones_like(probabilities, dtype=torch.float32)
    unary = -terms.float().clamp(SMALLEST, 1).log()
    return backend.infer(unary, images, kernels).reshape(probabilities.shape)


def grid_features(height: int, width: int, sxy: float, device: torch.device) -> Tensor:
    """Pixel positions (H,W,2) float32, x first, in units of `sxy`."""
    # A divisor on the device: by a Python number an accelerator multiplies with the reciprocal, which rounds otherwise.
    unit = torch.full((1,), sxy, device=device)
    x = (torch.arange(width, device=device, dtype=torch.float32) / unit).expand(height, width)
    y = (torch.arange(height, device=device, dtype=torch.float32) / unit)[:, None].expand(height, width)
    return torch.stack([x, y], dim=-1)


def colour_features(images: Tensor, sxy: float, srgb: float) -> Tensor:
    """Positions and colours (B,H*W,5) float32 of `images` (B,H,W,3) uint8, in units of their deviations."""
    batch, height, width, _ = images.shape
    position = grid_features(height, width, sxy, images.device).expand(batch, -1, -1, -1)
    colour = images.float() / torch.full((1,), srgb, device=images.device)
    return torch.cat([position, colour], dim=-1).reshape(batch, height * width, 5)


@dataclass
class LatticeMeanField:
    """Mean field over permutohedral lattices in torch, on the device of the arguments.

    Position lattices depend on the image size alone; the last few are kept.

    Attributes:
        cached_sizes: how many position lattices are kept.
    """

    cached_sizes: int = 8
    parallel: ClassVar[Literal["threads", "processes"]] = "threads"
    accelerated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """An empty cache, this instance's own."""
        self._kept = lru_cache(maxsize=self.cached_sizes)(position_lattice)

    def infer(self, unary: Tensor, images: Tensor, kernels: Kernels) -> Tensor:
        """See `Backend.infer`."""
        batch, terms, labels, height, width = unary.shape
        build = self._kept if batch * height * width <= CACHED_PIXELS else position_lattice
        near = build(batch, height, width, kernels.gaussian_sxy, unary.device)
        alike = Lattice.build(colour_features(images, kernels.bilateral_sxy, kernels.bilateral_srgb))
        both = _Pair.join(near, alike, kernels)
        energy = -unary.reshape(batch, terms * labels, -1).transpose(0, 1).reshape(terms, labels, -1)
        posterior = energy.softmax(1)
        for _ in range(kernels.iterations):
            message = both.message(posterior.reshape(terms * labels, -1).T.contiguous())
            posterior = (energy + message.T.reshape(energy.shape)).softmax(1)
        return posterior.reshape(terms * labels, batch, -1).transpose(0, 1).reshape(unary.shape)


def position_lattice(batch: int, height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """Lattice of the pixel grid (batch images of height x width), its Gaussian `sxy` pixels wide."""
    grid = grid_features(height, width, sxy, device).reshape(1, height * width, 2)
    return Lattice.build(grid.expand(batch, -1, -1))


@dataclass(frozen=True)
class _Pair:
    """Two lattices as one sparse operator with normalisation and weights folded in: one pass over the pixels a step."""

    corners: Tensor
    reads: Tensor
    points: Tensor
    touches: Tensor
    starts: Tensor
    near: Tensor
    alike: Tensor

    @classmethod
    def join(cls, near: Lattice, alike: Lattice, kernels: Kernels) -> "_Pair":
        # Symmetric normalisation D^-1/2 K D^-1/2: one root is applied on the way in, the other on the way out.
        roots = [_row_sums(lattice).add(TINY).rsqrt() for lattice in (near, alike)]
        compat = (kernels.gaussian_compat * near.scale, kernels.bilateral_compat * alike.scale)
        reads = [x.weights * (r * c)[:, None] for x, r, c in zip((near, alike), roots, compat, strict=True)]
        touches = [x.touches * r.index_select(0, x.points) for x, r in zip((near, alike), roots, strict=True)]
        return cls(
            torch.cat([near.corners, alike.corners + len(near.starts)], 1),
            torch.cat(reads, 1),
            torch.cat([near.points, alike.points]),
            torch.cat(touches),
            torch.cat([near.starts, alike.starts + len(near.points)]),
            near.neighbours,
            alike.neighbours,
        )

    def message(self, posterior: Tensor) -> Tensor:
        """Sum over both kernels of w D^-1/2 K D^-1/2 Q, for Q (P,C) float32."""
        vertices = embedding_bag(self.points, posterior, self.starts, per_sample_weights=self.touches, mode="sum")
        count = self.near.shape[2]
        vertices = torch.cat([blur(vertices[:count], self.near), blur(vertices[count:], self.alike)])
        return embedding_bag(self.corners, vertices, per_sample_weights=self.reads, mode="sum")


def _row_sums(lattice: Lattice) -> Tensor:
    points = len(lattice.corners)
    return lattice.filter(lattice.weights.new_ones(lattice.images, points // lattice.images, 1)).reshape(points)
