"""Explaining self-supervised networks with a neighbour (Gur, Ali and Wolf 2021, arXiv:2012.02166, Algorithm 2).

With L the latent vector of an image (what the linear head reads) and L_N that of its nearest neighbour in a bank, the
head is asked about S = L - L_N, and the class with the largest answer is explained: what the pretext task sees in this
image and not in its neighbour. As printed the neighbour chooses the class, and the explanation is that of the image.
The paper's text subtracts logits, which leaves the head's bias out; its algorithm, and this, keep it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from xseg.artifacts.header import Parent
from xseg.classifier.model import Classifier
from xseg.errors import BadInput, UsageError
from xseg.features.bank import Bank
from xseg.features.latent import head_disagrees, latent_images, scores
from xseg.features.neighbours import nearest

Mode = Literal["difference", "sum", "none"]
Enters = Literal["class", "latent"]


@dataclass(frozen=True)
class Contrasted:
    """What the neighbour makes of one image.

    Attributes:
        target: class index 0..C-1 that is explained.
        shift: (F,) what is added to the latent vector: -L_N, or L_N for the sum.
        neighbour: id of the neighbour.
    """

    target: int
    shift: Tensor
    neighbour: str


class Contrast:
    """Algorithm 2 with one classifier and one bank.

    Args:
        classifier: in evaluation mode.
        content: of its artifact; the bank has to be its own.
        bank: of latent vectors that its head reads.
        mode: `difference`, or `sum`.

    Raises:
        BadInput: a bank of another classifier, of another layer, or of vectors of another length.
        UsageError: a classifier whose logits are more than its head applied to a vector.
    """

    def __init__(self, classifier: Classifier, content: str, bank: Bank, mode: Mode) -> None:
        self._classifier, self._bank = classifier, bank
        self._sign = -1 if mode == "difference" else 1
        _require_own(bank, classifier, content)
        if problem := head_disagrees(classifier):
            raise UsageError(f"--targets ssl: {problem}", "use --neighbour none, or --targets top1")

    @property
    def parent(self) -> Parent:
        """Identity of the bank, for the next step's `run`."""
        return self._bank.parent

    @property
    def quick(self) -> bool:
        """Whether looking for neighbours does not read the bank again."""
        return self._bank.kept

    def of(
        self, images: Sequence[np.ndarray], ids: Sequence[str], sources: Sequence[str], batch_size: int
    ) -> list[Contrasted]:
        """What the neighbour makes of each image; images are seen as large as those of the bank were.

        Args:
            images: (H,W,3) uint8.
            ids: their ids.
            sources: sha256 (hex) of their files.
            batch_size: images per forward pass.

        Raises:
            BadInput: the bank holds nothing but this very picture.
        """
        size = self._bank.header.params.get("size")
        latent = latent_images(self._classifier, images, size=size, batch_size=batch_size)
        found = []
        for row, name, near in zip(latent, ids, nearest(latent, ids, sources, self._bank.blocks()), strict=True):
            if near is None:
                raise BadInput(
                    f"{name} has no neighbour: {self._bank.name} holds no other picture than this one",
                    "make the bank of more images, or use --neighbour none",
                )
            shift = self._sign * torch.from_numpy(near.vector).double()
            answer = scores(self._classifier, torch.from_numpy(row).double() + shift)
            found.append(Contrasted(int(answer.argmax()), shift.float(), near.id))
        return found

    def example(self) -> Tensor:
        """A shift (F,) as the images will have it, to try methods with."""
        return self._sign * torch.from_numpy(next(self._bank.blocks()).vectors[0])


def _require_own(bank: Bank, classifier: Classifier, content: str) -> None:
    made = bank.header.params
    again = "make the bank with this classifier: xseg features CLASSIFIER DATASET -o bank.h5"
    if content not in {parent.content for parent in bank.header.parents if parent.kind == "classifier"}:
        raise BadInput(f"--bank {bank.name}: its vectors are those of another classifier", again)
    if made.get("layer") is not None:
        raise BadInput(
            f"--bank {bank.name}: its vectors are those of layer {made['layer']}, needed those that the head reads",
            f"{again} (without --layer)",
        )
    width = classifier.head.get_parameter("weight").shape[1]
    if bank.width != width:
        raise BadInput(f"--bank {bank.name}: vectors of {bank.width} numbers, the head reads {width}", again)


@contextmanager
def shifted(classifier: Classifier, shift: Tensor) -> Iterator[None]:
    """Inside the block the head reads its input plus `shift` (F,), at every place if it reads several."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        read, *rest = inputs
        # a 1x1 convolution has its channels first, a linear layer last
        more = shift[:, None, None] if isinstance(module, nn.Conv2d) else shift
        return (read + more.to(read), *rest)

    handle = classifier.head.register_forward_pre_hook(add)
    try:
        yield
    finally:
        handle.remove()
