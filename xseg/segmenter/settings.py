"""The numbers of a segmenter's training."""

from dataclasses import dataclass
from typing import Literal

from xseg.datasets.transforms import Augmentation
from xseg.errors import UsageError
from xseg.training.optim import OptimSettings
from xseg.training.schedule import Schedule, make_schedule


@dataclass(frozen=True)
class SegmenterSettings:
    """Everything that decides which weights come out.

    Args:
        epochs: times every image is seen, on average when balanced.
        batch_size: images per step.
        crop: side of the square training crop, pixels.
        scale_low: smallest factor of the random resize.
        scale_high: largest.
        jitter: strength of brightness, contrast and saturation, the hue a third of it; 0 for none.
        flip: probability of the horizontal flip.
        optimizer: `sgd` or `adamw`.
        lr: of the backbone's weights.
        head_lr_multiplier: factor for the head.
        momentum: of SGD.
        weight_decay: on weights, not on biases and norms.
        schedule: `poly` or `cosine`.
        poly_power: of `poly`.
        warmup: share of the steps in which the rate rises, in [0, 1).
        freeze_bn: keep the batch-norm statistics of the backbone.
        balance: draw images of rare classes more often, by class frequency to the power -balance; 0 draws all alike.
        weighting: `confidence` weights each pixel by the probability of its label, `none` all labelled ones alike.
        average: decay of the moving average of the weights that is published; 0 publishes the last step's.
        clip: largest gradient norm; None does not clip.
        seed: of the head's first weights, order, augmentation and dropout.
        amp: mixed precision where it pays.
    """

    epochs: float = 20.0
    batch_size: int = 8
    crop: int = 448
    scale_low: float = 0.5
    scale_high: float = 2.0
    jitter: float = 0.3
    flip: float = 0.5
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.001
    head_lr_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["poly", "cosine"] = "poly"
    poly_power: float = 0.9
    warmup: float = 0.0
    freeze_bn: bool = False
    balance: float = 0.0
    weighting: Literal["none", "confidence"] = "none"
    average: float = 0.0
    clip: float | None = None
    seed: int = 0
    amp: bool = False

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("epochs", "batch_size", "crop", "scale_low", "lr")}
        wrong = [f"--{name.replace('_', '-')} {value}" for name, value in positive.items() if not value > 0]
        if wrong:
            raise UsageError(f"{', '.join(wrong)}: needed a positive number")
        if self.scale_high < self.scale_low:
            raise UsageError(f"--scale-high {self.scale_high} is below --scale-low {self.scale_low}")
        for name in ("warmup", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)}: needed a number in [0, 1)")

    def augmentation(self) -> Augmentation:
        """The draws of every training sample."""
        return Augmentation(
            crop=(self.crop, self.crop),
            long_side=None,
            rescale=(self.scale_low, self.scale_high),
            flip=self.flip,
            jitter=(self.jitter, self.jitter, self.jitter, self.jitter / 3),
        )

    def optim(self) -> OptimSettings:
        """The optimiser's numbers; biases learn like weights."""
        return OptimSettings(
            self.optimizer, self.lr, self.head_lr_multiplier, self.momentum, self.weight_decay, bias_lr_multiplier=1.0
        )

    def factor(self, steps: int) -> Schedule:
        """The schedule of a run of `steps` steps."""
        return make_schedule(self.schedule, steps, power=self.poly_power, warmup=self.warmup)
