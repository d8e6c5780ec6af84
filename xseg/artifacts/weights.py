"""Networks as artifacts: arrays under `weights/` and a JSON `config`; nothing in them is ever executed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from xseg.artifacts.encode import encode_weights
from xseg.artifacts.header import Header
from xseg.artifacts.publish import publish
from xseg.artifacts.schema import KINDS
from xseg.artifacts.stream import first_part
from xseg.errors import BadInput


def write_weights(
    path: Path, header: Header, config: str, state: Mapping[str, torch.Tensor], *, overwrite: bool = False
) -> None:
    """Publish a network.

    Args:
        path: the artifact's name.
        header: identity; of a kind that holds weights.
        config: JSON from which the module is rebuilt.
        state: state dict; tensors of any dtype NumPy has (bfloat16 is not one).
        overwrite: replace an existing file.

    Raises:
        CannotCreate: the name is taken.
        OutputFailed: no space is left.
    """
    arrays = to_arrays(state)
    publish(path, lambda file: encode_weights(file, header, config, arrays), overwrite=overwrite)


def to_arrays(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """A state dict as NumPy arrays on the host."""
    return {key: tensor.detach().cpu().numpy() for key, tensor in state.items()}


def is_artifact(weights: str) -> bool:
    """Whether `--weights` names an artifact, not a file of another program, `hub` or `none`."""
    return weights.endswith(".h5")


def read_weights(source: str, kind: str) -> tuple[Header, str, str, dict[str, torch.Tensor]]:
    """Read a network.

    Args:
        source: path of the artifact, or `-`.
        kind: the kind needed, such as "classifier".

    Returns:
        header, `content`, `config` (JSON) and state dict (CPU tensors).

    Raises:
        InputMissing: no such file.
        BadInput: another kind of artifact, or a damaged one.
    """
    with first_part(source) as part:
        if part.header.kind != kind:
            raise BadInput(
                f"{part.where} holds {part.header.kind}, this step needs {kind}",
                f"make it with: {KINDS[kind].made_by}",
            )
        content = part.content()
        if content != part.stored_content():
            raise BadInput(f"{part.where}: the weights are damaged (their digest does not match)", "make it again")
        state = {
            key: torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
            for key, array in part.weights().items()
        }
        return part.header, content, part.config(), state
