"""The numbers of a classifier's training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from xseg.classifier.losses import Loss
from xseg.datasets.transforms import Augmentation
from xseg.errors import UsageError
from xseg.training.optim import OptimSettings, psa_settings
from xseg.training.schedule import Schedule, cosine, poly


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides which weights come out; the defaults fine-tune an ImageNet backbone.

    Args:
        epochs: times every image is seen, on average when balanced.
        batch_size: images per step.
        crop: side of the square training crop, pixels.
        resize_low: shortest long side after the random resize, pixels.
        resize_high: longest.
        loss: `soft-margin` or `bce` for sigmoid heads, `cross-entropy` for softmax heads; None picks by activation.
        optimizer: `sgd` or `adamw`.
        lr: of the backbone's weights.
        head_lr_multiplier: factor for the head and a U-Net's decoder; a kept head learns like the backbone if set to 1.
        momentum: of SGD. psa's published code has 5e-4 here, see `psa`.
        weight_decay: on weights, not on biases and norms.
        bias_lr_multiplier: factor for biases; None: 2 for SGD, 1 for AdamW.
        schedule: `poly` or `cosine`.
        poly_power: of `poly`.
        warmup: share of the steps in which the rate rises, in [0, 1).
        jitter: strength of brightness, contrast and saturation, the hue a third of it; psa 0.3, 0 for none.
        flip: probability of the horizontal flip.
        frozen: module paths, or one number: the first so many stages.
        freeze_bn: keep batch-norm statistics.
        freeze_bn_affine: keep batch-norm scale and shift.
        balance: draw images of rare classes more often, by class frequency to the power -balance; 0 draws all alike.
        label_smoothing: in [0, 1).
        interpolate: how far the final weights lie from the starting ones to the learned ones, in (0, 1]; see
            `xseg.training.interpolate`.
        clip: largest gradient norm; None does not clip.
        validation_size: long side of validation images, pixels; 0 keeps their size.
        seed: of order, augmentation and dropout.
        amp: mixed precision where it pays.
    """

    epochs: float = 5.0
    batch_size: int = 16
    crop: int = 448
    resize_low: int = 256
    resize_high: int = 512
    loss: Loss | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    head_lr_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_lr_multiplier: float | None = None
    schedule: Literal["poly", "cosine"] = "poly"
    poly_power: float = 0.9
    warmup: float = 0.0
    jitter: float = 0.3
    flip: float = 0.5
    frozen: tuple[str, ...] | int = ()
    freeze_bn: bool = False
    freeze_bn_affine: bool = False
    balance: float = 0.0
    label_smoothing: float = 0.0
    interpolate: float = 1.0
    clip: float | None = None
    validation_size: int = 448
    seed: int = 0
    amp: bool = False

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("epochs", "batch_size", "crop", "resize_low", "lr")}
        wrong = [f"--{name.replace('_', '-')} {value}" for name, value in positive.items() if not value > 0]
        if wrong:
            raise UsageError(f"{', '.join(wrong)}: needed a positive number")
        if self.resize_high < self.resize_low:
            raise UsageError(f"--resize-high {self.resize_high} is below --resize-low {self.resize_low}")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: needed a number in [0, 1)")
        if not 0 < self.interpolate <= 1:
            raise UsageError(f"--interpolate {self.interpolate}: needed a number above 0 and at most 1")

    @classmethod
    def psa(cls) -> "TrainSettings":
        """The published training of psa (for its momentum see `psa_settings`); freeze stages yourself."""
        quirk = psa_settings()
        return cls(
            epochs=15,
            lr=quirk.lr,
            head_lr_multiplier=quirk.head_lr_multiplier,
            momentum=quirk.momentum,
            weight_decay=quirk.weight_decay,
            freeze_bn=True,
            freeze_bn_affine=True,
        )

    @classmethod
    def paper_003(cls) -> "TrainSettings":
        """The training of paper 003; momentum, schedule and one rate for all parameters are its code's.

        Its code lowers the rate once an epoch, here it falls every step; it stretches images to 448 x 448, here the
        long side has 448 pixels and the rest is padded.
        """
        return cls(
            epochs=20,
            batch_size=8,
            crop=448,
            resize_low=448,
            resize_high=448,
            lr=5e-3,
            head_lr_multiplier=1.0,
            bias_lr_multiplier=1.0,
            momentum=0.9,
            weight_decay=1e-4,
            poly_power=1.0,
        )

    def augmentation(self) -> Augmentation:
        """The draws of every training sample."""
        return Augmentation(
            crop=(self.crop, self.crop),
            long_side=(self.resize_low, self.resize_high),
            flip=self.flip,
            jitter=(self.jitter, self.jitter, self.jitter, self.jitter / 3),
        )

    def optim(self) -> OptimSettings:
        """The optimiser's numbers."""
        return OptimSettings(
            self.optimizer,
            self.lr,
            self.head_lr_multiplier,
            self.momentum,
            self.weight_decay,
            self.bias_lr_multiplier,
        )

    def factor(self, steps: int) -> Schedule:
        """The schedule of a run of `steps` steps."""
        warmup = round(self.warmup * steps)
        if self.schedule == "cosine":
            return partial(cosine, total=steps, warmup=warmup)
        return partial(poly, total=steps, power=self.poly_power, warmup=warmup)


PRESETS: dict[str, Callable[[], TrainSettings]] = {
    "fine-tune": TrainSettings,
    "psa": TrainSettings.psa,
    "paper-003": TrainSettings.paper_003,
}
