"""Which rows the table of each protocol has; one file per protocol."""

from collections.abc import Callable, Sequence

from xseg.scores.layouts.cells import Layout, Run
from xseg.scores.layouts.class_specificity import class_specificity
from xseg.scores.layouts.classification import classification
from xseg.scores.layouts.localisation import localisation
from xseg.scores.layouts.sanity import sanity
from xseg.scores.layouts.segmentation import segmentation

LAYOUTS: dict[str, Callable[[Sequence[Run]], Layout]] = {
    "segmentation": segmentation,
    "class-specificity": class_specificity,
    "sanity": sanity,
    "localisation": localisation,
    "classification": classification,
}
