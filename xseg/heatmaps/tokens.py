"""Where a transformer's tokens lie in the image, and which of them its head reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.attention import watching
from xseg.heatmaps.layers import evaluating, probe_images

_readers: WeakKeyDictionary[Classifier, "Readers"] = WeakKeyDictionary()


@dataclass(frozen=True)
class Readers:
    """The tokens of the last block that the logits depend on.

    Attributes:
        prefix: numbers of class, distillation and register tokens before the patches.
        read: which of these the head reads.
        patches: whether it reads the patches, as average pooling does.
    """

    prefix: int
    read: tuple[int, ...]
    patches: bool


@dataclass(frozen=True)
class Tokens:
    """The tokens of one batch of images.

    Attributes:
        grid: (h,w) of the patches, row by row after the prefix.
        readers: what the head reads.
    """

    grid: tuple[int, int]
    readers: Readers

    def read(self, rows: Tensor) -> Tensor:
        """What the head's tokens say about the patches, from (...,T,T) with queries in rows.

        Returns:
            (...,h,w): the mean over the rows that the head reads, at the columns of the patches.
        """
        chosen = rows[..., list(self._rows(rows.shape[-2])), :].mean(-2)
        return chosen[..., self.readers.prefix :].unflatten(-1, self.grid)

    def _rows(self, tokens: int) -> Sequence[int]:
        patches = range(self.readers.prefix, tokens) if self.readers.patches else ()
        return (*self.readers.read, *patches)


def tokens_of(classifier: Classifier, size: tuple[int, int], count: int) -> Tokens:
    """The tokens of images of (height, width) `size` of which there are `count`.

    Raises:
        UsageError: they are not one grid over the image after the prefix.
    """
    readers = readers_of(classifier)
    grid = grid_of(classifier, size, count - readers.prefix)
    if grid is None:
        raise UsageError(f"{count} tokens of an image of {size[0]}x{size[1]} pixels are no grid over it")
    return Tokens(grid, readers)


def grid_of(classifier: Classifier, size: tuple[int, int], patches: int) -> tuple[int, int] | None:
    """(h,w) with h w = `patches` of the aspect of the image, to the rounding of one patch; None if there is none."""
    embed = getattr(classifier.net, "patch_embed", None)
    if callable(known := getattr(embed, "dynamic_feat_size", None)):
        height, width = known(size)
        if height * width == patches:
            return height, width
    aspect = math.log(size[0] / size[1])
    pairs = [(h, patches // h) for h in range(1, patches + 1) if patches % h == 0]
    height, width = min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1]) - aspect), default=(0, 1))
    fits = height > 0 and abs(height / width - size[0] / size[1]) <= (1 + size[0] / size[1]) / width
    return (height, width) if fits else None


def readers_of(classifier: Classifier) -> Readers:
    """Which tokens the head reads, found by a gradient: of the others' attention in the last block there is none.

    Raises:
        UsageError: the network has no attention over tokens, or not over the same ones in all of its blocks.
    """
    if classifier not in _readers:
        _readers[classifier] = _probe(classifier)
    return _readers[classifier]


def _probe(classifier: Classifier) -> Readers:
    images = probe_images(classifier)
    with evaluating(classifier), watching(graph=True) as matrices:
        logits = classifier(images)
        if reason := not_over_tokens(matrices, len(images)):
            raise UsageError(reason)
        (gradient,) = torch.autograd.grad(logits.sum(), matrices[-1:])
    read = (gradient != 0).any(-1).any(1)[0]
    if not read.any():
        raise UsageError("the logits do not depend on the attention of the last block")
    count = len(read)
    prefix = getattr(classifier.net, "num_prefix_tokens", None)
    size = (images.shape[2], images.shape[3])
    known = (0, 1, 2) if prefix is None else (int(prefix),)
    prefix = next((k for k in known if grid_of(classifier, size, count - k) is not None), None)
    if prefix is None:
        raise UsageError(f"the {count} tokens of its blocks are no grid over the image of {size[0]}x{size[1]} pixels")
    return Readers(prefix, tuple(torch.nonzero(read[:prefix])[:, 0].tolist()), bool(read[prefix:].any()))


def not_over_tokens(matrices: Sequence[Tensor], images: int) -> str | None:
    """Why matrices are not those of blocks that all look at the same tokens of each image; None if they are."""
    if not matrices:
        return "the network computes no attention (a softmax over tokens) that could be watched"
    shapes = [tuple(matrix.shape) for matrix in matrices]
    if any(shape[0] != images for shape in shapes):
        return f"its attention looks at windows ({shapes[0][0]} for {images} image), not at all tokens"
    if any(shape[2:] != shapes[0][2:] or shape[2] != shape[3] for shape in shapes):
        odd = next((shape for shape in shapes if shape[2:] != shapes[0][2:]), shapes[0])
        return f"its blocks look at different tokens (attention of {shapes[0][2:]} and of {odd[2:]})"
    return None
