"""Training a segmenter on the masks of an earlier step."""

from collections.abc import Callable

import torch

from xseg.classifier.train import require_crop
from xseg.errors import UsageError
from xseg.segmenter.network import Segmenter
from xseg.segmenter.samples import Samples
from xseg.segmenter.settings import SegmenterSettings
from xseg.segmenter.task import Learner, SegmenterTask
from xseg.training.checkpoint import Checkpoint
from xseg.training.frozen import frozen
from xseg.training.loop import LoopSettings, Progress, train
from xseg.training.optim import make_optimizer
from xseg.training.schedule import step_count
from xseg.training.together import Together


def train_segmenter(
    segmenter: Segmenter,
    samples: Samples,
    settings: SegmenterSettings,
    *,
    device: torch.device,
    workers: int = 0,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    group: Together | None = None,
) -> list[dict[str, float]]:
    """Train `segmenter` in place; it ends on `device`, in evaluation mode, with the weights to publish.

    Args:
        segmenter: from `xseg.segmenter.network.create`.
        samples: what it learns from.
        settings: numbers.
        device: where.
        workers: threads that read images.
        checkpoint: claimed here and continued; the caller removes it once the result is published.
        should_stop: polled between steps.
        progress: told (steps done, of how many, values).
        group: the processes that train together; None: this one alone.

    Returns:
        One entry per epoch: `step`, `lr`, `loss`.

    Raises:
        UsageError: a crop that the backbone does not take, or a diverging loss.
        Stopped, Unavailable, CannotCreate, OutputFailed: see `xseg.training.loop.train`.
    """
    group = group or Together()
    _require_crop(segmenter, settings.crop)
    if checkpoint is not None:
        group.first_does(checkpoint.claim)
    classifier = segmenter.backbone.classifier
    learner = Learner(segmenter, settings.average).to(device)
    learner.to(memory_format=classifier.layout)  # type: ignore[call-overload]
    steps = step_count(settings.epochs, len(samples), settings.batch_size)
    optimizer = make_optimizer(learner, ["net.head"], settings.optim())
    optimizer.register_step_post_hook(learner.after_step)
    report_every = max(1, round(steps / settings.epochs))
    with frozen(segmenter.trunk, batch_norm=settings.freeze_bn):
        history = train(
            SegmenterTask(learner, samples, settings, workers, group.part_of(settings.batch_size)),
            optimizer,
            settings.factor(steps),
            # The head reads no class token, so what only that is made of has no part in the loss.
            LoopSettings(steps, settings.seed, settings.amp, settings.clip, report_every, partly_used=True),
            device=device,
            checkpoint=checkpoint,
            should_stop=should_stop,
            progress=progress,
            group=group,
        )
    segmenter.load_state_dict(learner.result())
    segmenter.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return history


def _require_crop(segmenter: Segmenter, crop: int) -> None:
    require_crop(segmenter.backbone.classifier, crop)
    smallest = segmenter.config.smallest
    if crop < smallest:
        raise UsageError(f"--crop {crop}: the backbone needs {smallest} pixels a side", f"--crop {smallest}")
