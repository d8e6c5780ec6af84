"""Which rows the table of each protocol has; one file per protocol."""

from collections.abc import Callable, Sequence

from xseg.scores.layouts.cells import Layout, Run
from xseg.scores.layouts.class_specificity import class_specificity
from xseg.scores.layouts.classification import classification
from xseg.scores.layouts.imagenet_seg import imagenet_seg
from xseg.scores.layouts.localisation import localisation
from xseg.scores.layouts.perturbation import perturbation
from xseg.scores.layouts.sanity import sanity
from xseg.scores.layouts.segmentation import segmentation
from xseg.scores.layouts.voc_multilabel import voc_multilabel

LAYOUTS: dict[str, Callable[[Sequence[Run]], Layout]] = {
    "segmentation": segmentation,
    "class-specificity": class_specificity,
    "sanity": sanity,
    "perturbation": perturbation,
    "imagenet-seg": imagenet_seg,
    "voc-multilabel": voc_multilabel,
    "localisation": localisation,
    "classification": classification,
}
