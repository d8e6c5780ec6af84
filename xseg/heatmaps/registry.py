"""What an explanation method is: a question about some (image, class) pairs in, one raw map per pair out."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.registry import Registry
from xseg.shapes import check_shapes


@dataclass(frozen=True)
class Query:
    """P questions "where is class `target[p]` in image `image[p]`?" about a batch of N images.

    Args:
        images: (N,3,H,W) float, normalised as the classifier wants them.
        image: (P,) long, index into the batch.
        target: (P,) long, class index 0..C-1 (the class id less one).
        ids: N image ids, the key of every random draw.
        seed: seed of every random draw.
        layer: module path inside the network that replaces the classifier's own target layer; None: that one.
        create_graph: maps stay functions of the images and of the parameters that require a gradient, for losses on
            them (Yu et al. 2024); only methods that are `differentiable` take it.

    Raises:
        ValueError: shapes that do not fit together, or no question at all.
    """

    images: Tensor
    image: Tensor
    target: Tensor
    ids: tuple[str, ...]
    seed: int = 0
    layer: str | None = None
    create_graph: bool = False

    def __post_init__(self) -> None:
        sizes = check_shapes(images=(self.images, "N C H W"), image=(self.image, "P"), target=(self.target, "P"))
        if not sizes["P"]:
            raise ValueError("image and target are empty, needed at least one question")
        if len(self.ids) != sizes["N"]:
            raise ValueError(f"ids has {len(self.ids)} entries, needed {sizes['N']} = N")

    def rounds(self) -> list[Tensor]:
        """Indices into P, one tensor per round; the r-th round holds the r-th question about each image.

        One backward pass answers a whole round, because in evaluation mode images do not influence each other.
        """
        asked: dict[int, int] = {}
        rounds: list[list[int]] = []
        for position, image in enumerate(self.image.tolist()):
            turn = asked.get(image, 0)
            asked[image] = turn + 1
            if turn == len(rounds):
                rounds.append([])
            rounds[turn].append(position)
        return [torch.tensor(indices, device=self.images.device) for indices in rounds]


class Method(ABC):
    """Base of the explanation methods: a frozen dataclass whose fields are its `--set KEY=VALUE` parameters."""

    signed: ClassVar[bool]  #: with its default parameters, maps have negative values
    class_specific: ClassVar[bool]  #: maps of two classes of one image differ
    needs_model: ClassVar[bool] = True  #: looks at the classifier and the picture at all
    differentiable: ClassVar[bool] = False  #: answers a query with `create_graph`
    at_layer: ClassVar[bool] = False  #: looks at one layer's feature maps, which `Query.layer` may choose
    summary: ClassVar[str]  #: one line for `xseg methods`
    source: ClassVar[str]  #: the paper it comes from
    models: ClassVar[str]  #: the networks it serves, in a few words
    cost: ClassVar[str]  #: forward (f) and backward (b) passes for K classes of an image

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Make every method refuse a query with `create_graph` that it cannot answer."""
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            cls.__call__ = _refusing(cls.__call__)  # type: ignore[method-assign, assignment]

    @property
    def is_signed(self) -> bool:
        """Whether maps can have negative values with the parameters of this instance."""
        return self.signed

    def serves(self, classifier: Classifier, layer: str | None = None) -> str | None:
        """Why this method cannot explain `classifier`, naming a method that can; None if it can.

        Args:
            classifier: in evaluation mode.
            layer: as in `Query`.

        Raises:
            UsageError: the network has no such layer.
        """
        return None

    @abstractmethod
    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Answer a query.

        Args:
            classifier: in evaluation mode, on the device of the query; left as it was.
            query: the P questions.

        Returns:
            (P,h,w) float32 (float64 for images in float64) at the method's own resolution, not normalised; the grid
            covers the whole image.

        Raises:
            UsageError: `create_graph` asked of a method that is not differentiable.
        """


Answer = Callable[[Any, Classifier, Query], Tensor]


def _refusing(answer: Answer) -> Answer:
    @functools.wraps(answer)
    def checked(self: Method, classifier: Classifier, query: Query) -> Tensor:
        if query.create_graph and not self.differentiable:
            name = next((name for name, cls in methods if cls is type(self)), type(self).__name__)
            able = ", ".join(name for name, cls in methods if cls.differentiable)
            raise UsageError(f"--method: the maps of {name} cannot be differentiated; those of {able} can")
        _refuse_layer(self, query.layer)
        return answer(self, classifier, query)

    return checked


methods: Registry[Method] = Registry("explanation method", group="xseg.methods")


#: What explains most networks, the finest maps last.
FALLBACKS = ("grad-cam", "integrated-gradients", "input-x-gradient")
#: What comes before them where it serves: it knows more of its networks.
SPECIAL = ("attention-gradient-rollout",)


def instead(classifier: Classifier, without: type | None = None) -> str:
    """Which methods serve a network that another one refused, as advice; those of the class `without` do not."""
    others = [name for name in (*SPECIAL, *FALLBACKS) if without is None or not issubclass(methods.get(name), without)]
    return use([name for name in others if _serves(methods.create(name), classifier)])


def use(names: Sequence[str]) -> str:
    """Advice to use one of the methods `names`."""
    *others, last = names
    return f"use {', '.join(others)} or {last}" if others else f"use {last}"


def _serves(method: Method, classifier: Classifier) -> bool:
    try:
        return method.serves(classifier) is None
    except UsageError:  # the layer it would look at does not lead to the logits
        return False


def require_served(method: Method, classifier: Classifier, layer: str | None = None) -> None:
    """Refuse a method that cannot explain this classifier, before any image is read.

    Raises:
        UsageError: with the method's own reason, or because a layer was chosen for a method that looks at none.
    """
    _refuse_layer(method, layer)
    reason = method.serves(classifier, layer)
    if reason is not None:
        raise UsageError(f"--method: {reason}")


def _refuse_layer(method: Method, layer: str | None) -> None:
    if layer is not None and not method.at_layer:
        able = ", ".join(name for name, cls in methods if cls.at_layer)
        raise UsageError(
            f"--layer {layer}: this method looks at no single layer", f"leave it out, or use one of {able}"
        )
