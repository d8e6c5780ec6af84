"""How alike two maps are: the four measures of Adebayo et al. (2018), arXiv:1810.03292."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xseg.scores.correlation import pearson, ranks
from xseg.scores.gradient_histogram import gradient_histogram
from xseg.scores.overlap import Floats
from xseg.scores.similarity import ssim

MEASURES = ("spearman", "spearman_absolute", "ssim", "hog")


@dataclass(frozen=True)
class SeenMap:
    """A map with what comparing it needs, computed once.

    Attributes:
        values: (H,W) float64 in [-1,1], the map divided by its largest absolute value (0 stays 0).
        order: ranks of the values. order_absolute: of their absolute values.
        gradients: their `gradient_histogram`.
    """

    values: Floats
    order: Floats
    order_absolute: Floats
    gradients: Floats | None

    @property
    def is_constant(self) -> bool:
        """Whether all values are equal, as in a map that a ReLU left nothing of."""
        return bool((self.order == self.order[0]).all())

    @classmethod
    def of(cls, heatmap: np.ndarray) -> "SeenMap | None":
        """From raw values (H,W); None if one of them is not finite."""
        values = np.asarray(heatmap, np.float64)
        if not np.isfinite(values).all():
            return None
        # In the map's own precision: values that were equal must stay equal, or ties would be broken by rounding.
        order = ranks(heatmap)
        order_absolute = order if (values >= 0).all() else ranks(np.abs(heatmap))
        top = np.abs(values).max(initial=0)
        values = values / top if top > 0 else values
        return cls(values, order, order_absolute, gradient_histogram(values))


def compare(first: SeenMap | None, second: SeenMap | None) -> dict[str, float | None]:
    """The measures by name, each in [-1, 1], 1 for equal maps.

    `spearman` and `spearman_absolute`: rank correlation of values and of absolute values. `ssim`: structural similarity
    of the maps divided by their largest absolute values, with a range of 1, or of 2 if either is negative somewhere.
    `hog`: Pearson's correlation of their histograms of gradients.

    Returns:
        None where a measure says nothing: correlations of a constant map, `ssim` of two of them, `hog` of maps with a
        side below 48 pixels, all of a map with values that are not finite (None).
    """
    found: dict[str, Any] = dict.fromkeys(MEASURES)
    if first is None or second is None:
        return found
    found["spearman"] = pearson(first.order, second.order)
    found["spearman_absolute"] = pearson(first.order_absolute, second.order_absolute)
    if not (first.is_constant and second.is_constant):
        signed = min(first.values.min(), second.values.min()) < 0
        found["ssim"] = ssim(first.values, second.values, 2.0 if signed else 1.0)
    if first.gradients is not None and second.gradients is not None:
        found["hog"] = pearson(first.gradients, second.gradients)
    return found
