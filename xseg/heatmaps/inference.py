"""Heatmaps of whole images: several scales and the mirror image, in batches, each view's map taken back and summed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.device import autocast, halving
from xseg.heatmaps.batches import device_of, equal_sized, sides_of, stack
from xseg.heatmaps.layers import evaluating
from xseg.heatmaps.registry import Method, Query
from xseg.heatmaps.views import MapSize, Views, resize_images, resize_maps, views_for


@dataclass(frozen=True)
class HeatmapSet:
    """The heatmaps of one image.

    Args:
        maps: (K,h,w) float32, raw, not normalised.
        class_id: (K,) int32, as asked for: 1..C, 0 for the background.
    """

    maps: np.ndarray
    class_id: np.ndarray


def explain_images(
    classifier: Classifier,
    method: Method,
    images: Sequence[np.ndarray],
    targets: Sequence[tuple[int, ...]],
    ids: Sequence[str],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    size: int | None = None,
    map_size: MapSize = "image",
    seed: int = 0,
    layer: str | None = None,
    batch_size: int = 8,
    amp: bool = False,
) -> list[HeatmapSet]:
    """Explain a window of images; all classes of an image share one forward pass per view.

    Images of equal size are batched together and nothing is padded, so the result does not depend on `batch_size`
    or on the other images in the window. When the device runs out of memory the batch is halved. Methods that look
    at no model are asked once, whatever the views.

    Args:
        classifier: on the device where the work is to be done; any mode, left as it was.
        method: the explanation method.
        images: (H,W,3) uint8 each.
        targets: class ids asked for, per image: 1..C, and 0 of a classifier with a logit for the background.
        ids: image ids, the key of random draws.
        scales: as in `Views`, and so are `flip`, `size`, `map_size`.
        flip: also look at the mirrored image.
        size: long side in pixels at scale 1.
        map_size: grid of the maps.
        seed: seed of random draws.
        layer: target layer other than the classifier's own.
        batch_size: images per forward pass.
        amp: mixed precision (accelerators only).

    Returns:
        One set per image, in order, one map per target. An image without targets gets (0,h,w), where h, w is the
        grid of its maps, or 1, 1 with `map_size="model"`, where no model was run.

    Raises:
        UsageError: views that make no sense, or a method that cannot serve this classifier.
        ValueError: a target outside 1..C, or lists of unequal length.
        Unavailable: the device's memory does not hold one image.
    """
    _check_targets(classifier, images, targets, ids)
    device = device_of(classifier)
    views = Views(tuple(scales), flip, size, map_size)
    if method.needs_model:
        views = views_for(classifier, views)
    maps_of: dict[int, Tensor] = {}
    first = 0 if classifier.config.background else 1

    def explain(chosen: Sequence[int]) -> list[Tensor]:
        pairs = [(position, class_id - first) for position, i in enumerate(chosen) for class_id in targets[i]]
        image, target = torch.tensor(pairs, device=device).unbind(1)
        pixels = stack([images[i] for i in chosen]).to(device)
        query = Query(pixels, image, target, tuple(ids[i] for i in chosen), seed, layer)
        with autocast(device, amp):
            maps = _summed_views(classifier.full, method, query, views)
        return list(maps.cpu().split([len(targets[i]) for i in chosen]))

    with evaluating(classifier):
        for batch in equal_sized(images, [i for i, asked in enumerate(targets) if asked], batch_size):
            maps_of.update(zip(batch, halving(explain, batch), strict=True))
    return [
        HeatmapSet(
            maps_of[i].numpy() if i in maps_of else np.zeros((0, *views.grid(image.shape[:2], (1, 1))), np.float32),
            np.array(targets[i], np.int32),
        )
        for i, image in enumerate(images)
    ]


def _summed_views(classifier: Classifier, method: Method, query: Query, views: Views) -> Tensor:
    """Maps (P,h,w) of a query whose `images` are uint8 pixels (N,3,H,W), summed over all views."""
    sides = sides_of(query.images)
    if not method.needs_model:
        maps = method(classifier, query)
        return resize_maps(maps, views.grid(sides, sides_of(maps)))
    total: Tensor | None = None
    for scale in views.scales:
        view = classifier.normalise(resize_images(query.images, views.shape(sides, scale)))
        maps = method(classifier, replace(query, images=view)).float()
        if views.flip:
            # Resampling is linear, so the mirror's map can join before it, at the model's resolution.
            maps = maps + method(classifier, replace(query, images=view.flip(-1))).float().flip(-1)
        grid = views.grid(sides, sides_of(maps)) if total is None else sides_of(total)
        maps = resize_maps(maps, grid)
        total = maps if total is None else total + maps
    assert total is not None  # Views refuses an empty list of scales
    return total


def _check_targets(
    classifier: Classifier, images: Sequence[np.ndarray], targets: Sequence[tuple[int, ...]], ids: Sequence[str]
) -> None:
    if not len(images) == len(targets) == len(ids):
        raise ValueError(f"found {len(images)} images, {len(targets)} targets, {len(ids)} ids, needed equal numbers")
    first, count = 0 if classifier.config.background else 1, len(classifier.config.classes)
    for name, asked in zip(ids, targets, strict=True):
        if not all(first <= class_id <= count for class_id in asked):
            raise ValueError(f"targets of {name} are {asked}, needed class ids {first}..{count}")
