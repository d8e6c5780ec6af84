"""Where a transformer's tokens lie in the image, which of them its head reads, and through how many attentions."""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.classifier.probe import what_heads_read
from xseg.errors import UsageError
from xseg.heatmaps.attention import watching
from xseg.heatmaps.grids import arrangement
from xseg.heatmaps.layers import evaluating, probe_images

_readers: WeakKeyDictionary[Classifier, "Readers"] = WeakKeyDictionary()


@dataclass(frozen=True)
class Readers:
    """The tokens of the last block that the logits depend on.

    Attributes:
        prefix: numbers of class, distillation and register tokens before the patches.
        read: which of these the head reads.
        patches: whether it reads the patches, as average pooling does.
        blocks: number of attention matrices of a forward pass.
        latent: queries of an attention that pools the tokens; they count as the first tokens of all.
    """

    prefix: int
    read: tuple[int, ...]
    patches: bool
    blocks: int
    latent: int = 0


@dataclass(frozen=True)
class Tokens:
    """The tokens of one batch of images.

    Attributes:
        grid: (h,w) of the patches, row by row after the prefix.
        readers: what the head reads.
    """

    grid: tuple[int, int]
    readers: Readers

    @property
    def count(self) -> int:
        """Number of tokens T."""
        return self.readers.prefix + self.grid[0] * self.grid[1]

    def place(self, matrix: Tensor) -> Tensor:
        """A block's matrix (...,Q,K) as one over all tokens, (...,T,T), with zeros for those that it leaves alone.

        Class-attention blocks (CaiT) look from the first tokens at all, the blocks before them only among the patches,
        which are the last; an attention that pools looks from its own queries at the rest.
        """
        queries, keys = matrix.shape[-2:]
        if queries == keys == self.count:
            return matrix
        placed = matrix.new_zeros(*matrix.shape[:-2], self.count, self.count)
        rows = slice(-queries, None) if queries == keys else slice(queries)
        placed[..., rows, -keys:] = matrix
        return placed

    def read(self, rows: Tensor) -> Tensor:
        """What the head's tokens say about the patches, from (...,Q,K) with queries in rows.

        Returns:
            (...,h,w): the mean over the rows that the head reads, at the columns of the patches.
        """
        return self.of_patches(rows[..., self.rows(), :].mean(-2))

    def of_patches(self, values: Tensor) -> Tensor:
        """The patches (...,h,w) among the tokens (...,K)."""
        height, width = self.grid
        return values[..., -height * width :].unflatten(-1, self.grid)

    def start(self, like: Tensor) -> Tensor:
        """(1,1,T) in the type of `like`: the mean of the unit vectors of the tokens that the head reads."""
        row = like.new_zeros(1, 1, self.count)
        row[..., self.rows()] = 1 / len(self.rows())
        return row

    def rows(self) -> list[int]:
        """Indices of the tokens that the head reads."""
        patches = range(self.readers.prefix, self.count) if self.readers.patches else ()
        return [*self.readers.read, *patches]


def tokens_of(classifier: Classifier, size: tuple[int, int], count: int) -> Tokens:
    """The tokens of images of (height, width) `size`.

    Args:
        classifier: the classifier.
        size: of the images in pixels.
        count: number of columns of the last attention matrix.

    Raises:
        UsageError: they are not one grid over the image after the prefix, or the network has no such tokens.
    """
    readers = readers_of(classifier)
    place = arrangement(classifier, size, count)
    if place is None:
        raise UsageError(f"--method: {count} tokens of an image of {size[0]}x{size[1]} pixels are no grid over it")
    return Tokens(place[1], readers)


def readers_of(classifier: Classifier) -> Readers:
    """Which tokens the head reads, found by a gradient: of the others' attention in the last block there is none.

    Raises:
        UsageError: the network has no attention over tokens, or not over the same ones in all of its blocks.
    """
    if classifier not in _readers:
        found = _probe(classifier)
        if isinstance(found, str):
            raise UsageError(f"--method: {found}")
        _readers[classifier] = found
    return _readers[classifier]


def without_tokens(classifier: Classifier) -> str | None:
    """Why a network's attention cannot be read; None if it can."""
    try:
        readers_of(classifier)
    except UsageError as error:
        return error.problem.removeprefix("--method: ")
    return None


def _probe(classifier: Classifier) -> Readers | str:
    images, logits = probe_images(classifier), len(classifier.config.classes)
    with evaluating(classifier), watching(graph=True) as matrices:
        read = what_heads_read(classifier.net, images, logits)
        if reason := not_over_tokens(matrices, len(images)):
            return reason
        (gradient,) = torch.autograd.grad(read, matrices[-1:], allow_unused=True) if read.requires_grad else (None,)
    if gradient is None or not gradient.any():
        return "its head does not read what its last attention attends to"
    count, (height, width) = matrices[-1].shape[3], images.shape[2:]
    place = arrangement(classifier, (height, width), count)
    if place is None:
        return f"the {count} tokens of its blocks are no grid over the image of {height}x{width} pixels"
    rows = (gradient != 0).any(-1).any(1)[0]
    latent = 0 if count > matrices[0].shape[3] or len(rows) == count else len(rows)
    prefix = place[0] + latent
    return Readers(
        prefix, tuple(torch.nonzero(rows[:prefix])[:, 0].tolist()), bool(rows[prefix:].any()), len(matrices), latent
    )


def not_over_tokens(matrices: Sequence[Tensor], images: int) -> str | None:
    """Why matrices are not those of blocks that all look at the same tokens of each image; None if they are.

    The last blocks may look at the tokens from few others: class tokens that join only then, or the queries of an
    attention that pools.
    """
    if not matrices:
        return "it computes no attention (a softmax over tokens) that could be watched"
    shapes = [tuple(matrix.shape) for matrix in matrices]
    if any(shape[0] != images for shape in shapes):
        return f"its attention looks at windows ({shapes[0][0]} for {images} image), not at all tokens"
    among = shapes[0][3]
    for number, (_, _, queries, keys) in enumerate(shapes):
        last = queries < among and all(shape[2:] == (queries, keys) for shape in shapes[number:])
        if not queries == keys == among and not (last and keys in (among, among + queries)):
            first = f"{shapes[0][2]}x{among}"
            odd = [f"{queries}x{keys}"] if number else []
            return f"its blocks look at different tokens (attention of {' and of '.join([first, *odd])})"
    return None
