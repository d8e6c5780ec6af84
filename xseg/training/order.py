"""Which sample comes when: a pure function of seed and position, whatever was interrupted in between."""

from functools import lru_cache

import numpy as np

from xseg.seeding import generator


class SampleOrder:
    """An endless sequence of samples, epoch after epoch.

    Batches are cut from it without regard to where an epoch ends, so all have the same size and no sample is dropped.

    Args:
        count: number of samples.
        seed: of the shuffling.
        weights: (count,) relative frequency; samples are then drawn with replacement, else each epoch is a permutation.
        part: (i, n): only the i-th of n slices of every batch, for the i-th of n processes.
    """

    def __init__(
        self, count: int, seed: int, weights: np.ndarray | None = None, part: tuple[int, int] = (0, 1)
    ) -> None:
        if count < 1:
            raise ValueError(f"count is {count}, needed at least 1")
        self.count, self._seed, self._part = count, seed, part
        self._chances = None if weights is None else weights / weights.sum()
        self._epoch = lru_cache(maxsize=4)(self._shuffle)

    def batch(self, step: int, size: int) -> list[tuple[int, int, int]]:
        """The samples of one step.

        Returns:
            `size` triples (or the part of them): sample 0..count-1, epoch, and how often the epoch had drawn that
            sample before.
        """
        number, parts = self._part
        first, last = step * size + number * size // parts, step * size + (number + 1) * size // parts
        places = (divmod(position, self.count) for position in range(first, last))
        return [(int(self._epoch(e)[0][place]), e, int(self._epoch(e)[1][place])) for e, place in places]

    def _shuffle(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        random = generator(self._seed, "order", epoch)
        if self._chances is None:
            return random.permutation(self.count), np.zeros(self.count, np.int64)
        drawn = random.choice(self.count, self.count, p=self._chances)
        repeats = np.zeros(self.count, np.int64)
        seen: dict[int, int] = {}
        for place, sample in enumerate(drawn.tolist()):
            repeats[place] = seen.get(sample, 0)
            seen[sample] = repeats[place] + 1
        return drawn, repeats


def balanced_weights(labels: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Sampling weights that favour images of rare classes.

    Args:
        labels: (N,C) uint8, 1 present, 0 absent, 255 unknown.
        power: of the frequency; 1 evens the classes out, 0.5 goes half of the way on a logarithmic scale.

    Returns:
        (N,) float64: the largest inverse frequency among an image's classes; images without a class count as if they
        had the most frequent one.
    """
    present = labels == 1
    rarity = np.maximum(present.sum(0), 1).astype(np.float64) ** -power
    floor = rarity[present.any(0)].min(initial=1.0)
    return np.maximum(np.where(present, rarity, 0.0).max(1, initial=0.0), floor)
