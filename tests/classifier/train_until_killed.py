"""A training in its own process, for a test that kills it: OUT WEIGHTS [pause before each step, seconds]."""

import sys
import time
from pathlib import Path

import torch

from tests.classifier.nets import CLASSES, MODEL, FakeDataset
from xseg.classifier import create
from xseg.classifier.settings import TrainSettings
from xseg.classifier.train import train_classifier
from xseg.training.checkpoint import Checkpoint

SETTINGS = TrainSettings(epochs=4, batch_size=5, crop=32, resize_low=24, resize_high=48, lr=0.05, balance=1.0)


def main(output: Path, weights: Path, pause: float) -> None:
    torch.set_num_threads(1)
    checkpoint = Checkpoint(output, "run", steps=2)

    def progress(done, total, values):
        sys.stdout.write(f"{done}\n")
        sys.stdout.flush()
        time.sleep(pause)

    classifier = create(MODEL, CLASSES, weights="none")
    train_classifier(FakeDataset(12), classifier, SETTINGS, workers=2, checkpoint=checkpoint, progress=progress)
    torch.save(classifier.net.state_dict(), weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
