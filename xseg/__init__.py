"""Image-level labels to segmentation masks through explanation heatmaps.

The steps of the command line, on tensors: `from xseg import explain, crf, random_walk`.
"""

import os
from typing import TYPE_CHECKING

from xseg.version import __version__

# Spinning OpenMP threads make a busy neighbour cost 20x; this must be set before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from xseg.api import crf, explain, random_walk

__all__ = ["__version__", "crf", "explain", "random_walk"]


def __getattr__(name: str) -> object:
    # Imported on first use, so that `xseg --help` does not pay for torch.
    if name in {"crf", "explain", "random_walk"}:
        from xseg import api

        return getattr(api, name)
    raise AttributeError(f"module 'xseg' has no attribute {name!r}")
