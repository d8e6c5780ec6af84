"""What the methods share that read a transformer's attention matrices."""

from typing import ClassVar

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.registry import Method, instead
from xseg.heatmaps.tokens import readers_of, without_tokens


class AttentionMethod(Method):
    """Reads the attention of some of a transformer's blocks, which all look at the same tokens."""

    signed: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "transformers whose blocks look at all tokens of the image"

    def serves(self, classifier: Classifier, layer: str | None = None) -> str | None:
        """Watch the attention of a noise image."""
        if reason := without_tokens(classifier):
            return f"{reason}; {instead(classifier, AttentionMethod)}"
        return self._none_left(readers_of(classifier).blocks)

    def first_of(self, classifier: Classifier) -> int:
        """Number of the first block that is looked at.

        Raises:
            UsageError: there is none, or the network's attention cannot be read.
        """
        blocks = readers_of(classifier).blocks
        if problem := self._none_left(blocks):
            raise UsageError(f"--method: {problem}")
        return self.first(blocks)

    def first(self, blocks: int) -> int:
        """Number of the first block that is looked at, of so many: the last one."""
        return blocks - 1

    def _none_left(self, blocks: int) -> str | None:
        first = self.first(blocks)
        if first < blocks:
            return None
        return f"start_layer is {first} and the network has {blocks} blocks; use --set start_layer={blocks - 1} or less"
