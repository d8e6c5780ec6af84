"""The steps of the command line on tensors: no files, no artifacts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xseg.affinity.loss import affinities
from xseg.affinity.walk import random_walk as _random_walk
from xseg.classifier.model import Classifier
from xseg.heatmaps import Query, methods
from xseg.heatmaps.registry import require_served
from xseg.labels.backends import resolve_backend
from xseg.labels.meanfield import Kernels, mean_field
from xseg.shapes import check_shapes


def explain(
    classifier: Classifier,
    images: Tensor,
    targets: Sequence[Sequence[int]],
    method: str = "cam",
    settings: Sequence[str] = (),
    *,
    seed: int = 0,
) -> list[Tensor]:
    """Heatmaps of a batch; all classes of an image share one forward pass.

    Args:
        classifier: from `xseg.classifier.model.create` or `build`.
        images: (N, 3, H, W) float, normalised by `classifier.normalise`.
        targets: class ids asked for, per image: 1..C, and 0 of a classifier with a logit for the background.
        method: a name listed by `xseg methods`.
        settings: its parameters as `KEY=VALUE`.
        seed: for methods that draw.

    Returns:
        Per image (K, h, w) float32 at the method's own resolution, not normalised.

    Raises:
        UsageError: an unknown method or parameter, or one that cannot serve the classifier.
        ValueError: shapes that do not fit.
    """
    sizes = check_shapes(images=(images, "N 3 H W"))
    if len(targets) != sizes["N"]:
        raise ValueError(f"found targets of {len(targets)} images, needed {sizes['N']}")
    made = methods.create(method, settings)
    require_served(made, classifier.full)
    counts = [len(wanted) for wanted in targets]
    if not sum(counts):
        return [images.new_zeros(0, 1, 1) for _ in targets]
    image = torch.tensor([i for i, wanted in enumerate(targets) for _ in wanted], device=images.device)
    first = 0 if classifier.config.background else 1
    target = torch.tensor([class_id - first for wanted in targets for class_id in wanted], device=images.device)
    ids = tuple(str(i) for i in range(sizes["N"]))
    return list(made(classifier.full, Query(images, image, target, ids, seed)).split(counts))


def crf(probabilities: Tensor, image: Tensor, kernels: Kernels | None = None, backend: str = "auto") -> Tensor:
    """Posteriors of a dense CRF over one image.

    Args:
        probabilities: (L, H, W) float32 in [0, 1], one map per label, background included.
        image: (H, W, 3) uint8 RGB on the same device.
        kernels: constants; default those of psa.
        backend: `auto`, `lattice`, `numba` or `pydensecrf`.

    Returns:
        (L, H, W) float32, summing to 1 over L.

    Raises:
        ValueError: shapes that do not fit.
        UsageError, Unavailable: no such backend, or it is not installed.
    """
    check_shapes(probabilities=(probabilities, "L H W"), image=(image, "H W 3"))
    return mean_field(probabilities[None], image, kernels or Kernels(), resolve_backend(backend, image.device))[0]


def random_walk(
    maps: Tensor, features: Tensor, *, beta: float = 8, steps: int = 256, stride: int = 8, radius: float = 5
) -> Tensor:
    """Class maps spread along the affinities of node features (Ahn and Kwak 2018, arXiv:1803.10464).

    Args:
        maps: (K, H, W) float32, the background among them if it is to walk.
        features: (D, ceil(H / stride), ceil(W / stride)) float32, as from an AffinityNet.
        beta: power of the affinities.
        steps: the t of T^t.
        stride: pixels per node.
        radius: pairs closer than this, in nodes.

    Returns:
        (K, H, W) in the range of the maps.

    Raises:
        ValueError: shapes that do not fit.
    """
    pairs = affinities(features, radius)
    return _random_walk(maps, pairs, beta=beta, steps=steps, stride=stride, radius=radius)
