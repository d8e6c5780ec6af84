"""Publishing a trained network: the output is checked before the work, and a finished run is not repeated."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from xseg.artifacts.header import Header, Parent, sha256
from xseg.artifacts.publish import check_writable
from xseg.artifacts.weights import is_artifact, read_weights, write_weights
from xseg.datasets.index import Dataset
from xseg.datasets.source import digest
from xseg.errors import BadInput, CannotCreate, InputMissing
from xseg.runs.runtime import Runtime
from xseg.training.checkpoint import Checkpoint

SECONDS = 60.0  # between two checkpoints


def dataset_parent(dataset: Dataset) -> Parent:
    """Identity of the images and labels a network is trained on."""
    rows = (f"{item.id}\t{item.path}\t{item.labels}" for item in dataset.items)
    return Parent("dataset", sha256(*dataset.classes, *rows))


def weights_parent(weights: str) -> Parent:
    """Identity of the weights training starts from: an artifact's content, a file's sha256, `hub` or `none`.

    Raises:
        InputMissing: a file that is not there or cannot be read.
        BadInput: an artifact that is damaged, or no classifier.
    """
    if weights in {"hub", "none"}:
        return Parent("weights", weights)
    if is_artifact(weights):
        return Parent("classifier", read_weights(weights, "classifier")[1])
    try:
        return Parent("weights", digest(Path(weights).read_bytes()))
    except OSError as error:
        hint = "a .safetensors or .pth file, an artifact, or hub, or none"
        raise InputMissing(f"--weights {weights}: cannot be read ({error.strerror})", hint) from error


def is_finished(path: Path, header: Header, runtime: Runtime) -> bool:
    """Whether the same run has published `path` already.

    Raises:
        CannotCreate: it holds something else and may not be overwritten, or it cannot be created.
    """
    check_writable(path)
    if not path.exists() or (runtime.overwrite and not runtime.resume):
        return False
    try:
        found, *_ = read_weights(str(path), header.kind)
        if found.run == header.run:
            runtime.reporter.note(f"{path} is complete already")
            _drop_leftover(Checkpoint(path, header.run))
            return True
        what = f"a {found.kind} of another run (other options, inputs or images)"
    except BadInput as error:
        what = f"something else ({error.problem})"
    if not runtime.overwrite:
        raise CannotCreate(f"{path} exists and holds {what}", "choose another -o, or use --overwrite")
    return False


def _drop_leftover(checkpoint: Checkpoint) -> None:
    # Left by a kill between publishing and tidying up.
    if not checkpoint.is_foreign():
        checkpoint.remove()


def open_checkpoint(path: Path, header: Header, runtime: Runtime) -> Checkpoint:
    """The checkpoint beside `path`. `--no-resume` removes that of this run, `--overwrite` another run's."""
    checkpoint = Checkpoint(path, header.run, seconds=SECONDS)
    if runtime.overwrite if checkpoint.is_foreign() else not runtime.resume:
        checkpoint.remove()
    return checkpoint


def publish_network(
    path: Path,
    header: Header,
    config: str,
    state: Mapping[str, Tensor],
    checkpoint: Checkpoint | None,
    runtime: Runtime,
) -> None:
    """Write the artifact, then drop the checkpoint.

    Raises:
        CannotCreate, OutputFailed: see `xseg.artifacts.publish`.
    """
    write_weights(path, header, config, state, overwrite=runtime.overwrite)
    if checkpoint is not None:
        checkpoint.remove()
