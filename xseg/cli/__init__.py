"""The command line: one thin file per command. Importing this imports no torch."""

from xseg.cli import (  # noqa: F401, I001 - each registers its commands, in the order of the chain
    train_cls,
    train_guided,
    explain,
    crf,
    affinity_train,
    random_walk,
    train_seg,
    segment,
    evaluate,
    features,
    methods,
    info,
    merge,
    export,
    import_,
    show,
    report,
    slurm,
    doctor,
    bench,
    demo,
)
from xseg.cli.command import app, main

__all__ = ["app", "main"]
