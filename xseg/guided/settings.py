"""The numbers of model guidance."""

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal, get_args

from xseg.classifier.settings import TrainSettings
from xseg.errors import UsageError, require_one_of
from xseg.guided.losses import DIVERSITY, LOSSES, SEGMENTATION, Normalise

Unknown = Literal["ignore", "background"]


@dataclass(frozen=True)
class GuidedSettings:
    """Everything that decides which weights come out.

    Args:
        training: of the classifier: data, optimiser, schedule.
        heatmap: name of a differentiable explanation method, then its settings as `KEY=VALUE`.
        loss: on the heatmaps, one of `xseg.guided.losses.LOSSES`.
        weight: of that loss.
        classification_weight: of the loss of the image-level labels.
        background: the classifier has a logit for the background.
        normalise: of the maps before the softmax of cross-entropy and dice.
        temperature: of that softmax.
        mask_share: share of the images with masks among those of a batch, in [0, 1].
        unknown: pixels of unknown class are left out, or count as background, as in the published code.
        one_class: losses of one class look at one of an image's classes, drawn anew every time, as Rao et al.; else at
            all of them.
        region_weight: of what lies in regions to be ignored.
        skips: most steps in a row with a gradient that is not finite.
    """

    training: TrainSettings = field(default_factory=TrainSettings)
    heatmap: tuple[str, ...] = ("lrp",)
    loss: str = "cross-entropy"
    weight: float = 1.0
    classification_weight: float = 1.0
    background: bool = True
    normalise: Normalise = "none"
    temperature: float = 1.0
    mask_share: float = 0.5
    unknown: Unknown = "ignore"
    one_class: bool = True
    region_weight: float = 1.0
    skips: int = 10

    def __post_init__(self) -> None:
        require_one_of("--loss", self.loss, *LOSSES)
        require_one_of("--normalise", self.normalise, *get_args(Normalise))
        require_one_of("--unknown", self.unknown, *get_args(Unknown))
        if not 0 <= self.mask_share <= 1:
            raise UsageError(f"--mask-share {self.mask_share}: needed a number in [0, 1]")
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"--temperature {self.temperature}: needed a number above 0")
        for option in ("weight", "classification_weight", "region_weight"):
            value = getattr(self, option)
            if not (isfinite(value) and value >= 0):
                raise UsageError(f"--{option.replace('_', '-')} {value}: needed a number of at least 0")
        if self.loss in SEGMENTATION and not self.background:
            raise UsageError(
                f"--no-background with --loss {self.loss}: pixels outside of all objects need a class",
                f"leave it out, or use --loss {', '.join(loss for loss in LOSSES if loss not in SEGMENTATION)}",
            )

    @property
    def compares(self) -> bool:
        """Whether the loss is about maps of other classifiers."""
        return self.loss == DIVERSITY


def fine_tune() -> TrainSettings:
    """Guidance of a network that has learned images before."""
    return TrainSettings(
        epochs=10,
        batch_size=16,
        crop=224,
        resize_low=224,
        resize_high=320,
        optimizer="adamw",
        lr=1e-4,
        head_lr_multiplier=10.0,
        weight_decay=0.01,
        clip=1.0,
    )


def paper_000() -> TrainSettings:
    """The published training of Yu et al. 2024, of which the crop is another.

    Its code cuts a random square of the short side and resizes it to 256 pixels, blurs and adds noise, and lets the
    network see values in (0, 1] without mean and deviation.
    """
    return replace(fine_tune(), epochs=100, batch_size=10, crop=256, resize_low=256, lr=1e-5, head_lr_multiplier=1.0)


PRESETS = {"fine-tune": fine_tune, "paper-000": paper_000}
