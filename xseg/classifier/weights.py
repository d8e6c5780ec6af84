"""Weight files: read without running code, matched to a network name by name."""

import argparse
import difflib
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from xseg.artifacts.weights import is_artifact
from xseg.artifacts.weights import read_weights as read_artifact
from xseg.errors import BadInput, InputMissing

# What torch and safetensors raise for files that are cut short or of another kind, the unpickler's own slips included.
UNREADABLE = (
    pickle.UnpicklingError, SafetensorError, OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError,
    AttributeError, struct.error,
)  # fmt: skip
# `teacher` is DINO's network of the two that is evaluated, `network` RotNet's.
_NESTED = ("state_dict", "model", "model_state_dict", "teacher", "network")
_CLUSTER_HEAD = re.compile(r"(?:^|\.)cluster_head\.(\d+)\.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or torch file, or in a classifier artifact, on the CPU.

    A torch file is read with `weights_only=True`; a dict nested under `model`, `state_dict` and the like is taken out,
    the prefix `module.` of data-parallel training is stripped, and of several cluster heads (SCAN) only the one stays
    that the file names as the best.

    Raises:
        InputMissing: no such file.
        BadInput: not such a file, or it holds something other than tensors by name.
    """
    if is_artifact(str(path)):
        return read_artifact(str(path), "classifier")[3]
    if not path.is_file():
        raise InputMissing(f"--weights {path}: no such file", "a .safetensors or .pth file, or hub, or none")
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except UNREADABLE as error:
        if "unsupported global" in str(error).lower():
            raise BadInput(
                f"--weights {path}: refused, loading it would run code stored in the file",
                "save the plain state dict: safetensors.torch.save_file(model.state_dict(), ...)",
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"--weights {path}: cannot be read ({reason})", "is the file complete?") from error
    return _state_dict(loaded, path)


def _load(path: Path) -> object:
    # Training scripts keep their options beside the weights; a namespace holds values and runs nothing.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, "cpu", weights_only=True)


def _state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    best = _best_head(loaded)
    for key in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BadInput(f"--weights {path}: holds no state dict", f"tensors by name, at the top or under {_NESTED}")
    prefixed = bool(loaded) and all(str(key).startswith("module.") for key in loaded)
    state = {str(key).removeprefix("module.") if prefixed else str(key): value for key, value in loaded.items()}
    return {key: value for key, value in state.items() if best is None or _cluster_head(key) in (None, best)}


def _best_head(loaded: object) -> int | None:
    """Which of several cluster heads a file of SCAN names as the best; None if it names none."""
    named = [loaded.get(key) for key in ("head", "best_loss_head")] if isinstance(loaded, Mapping) else []
    return next((value for value in named if isinstance(value, int)), None)


def _cluster_head(key: str) -> int | None:
    match = _CLUSTER_HEAD.search(key)
    return int(match[1]) if match else None


def load_into(net: nn.Module, state: Mapping[str, Tensor], source: str, skip: str | None = None) -> None:
    """Copy `state` into `net`, every name and shape accounted for.

    Args:
        net: the network.
        state: tensors by state-dict key.
        source: where they came from, for the message.
        skip: module path of a new head, whose parameters keep their values.

    Raises:
        BadInput: missing, unexpected or differently shaped tensors, listed by name.
    """
    own = net.state_dict()
    given = {key: value for key, value in state.items() if not _inside(key, skip)}
    # Files saved before torch 0.4.1 lack this counter, and nothing reads it while momentum is a number.
    missing = [k for k in own if k not in given and not _inside(k, skip) and not k.endswith("num_batches_tracked")]
    extra = [key for key in given if key not in own]
    shapes = [
        f"{key} {tuple(value.shape)}, needed {tuple(own[key].shape)}"
        for key, value in given.items()
        if key in own and value.shape != own[key].shape
    ]
    found = [
        f"{what} {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", extra), ("wrong shape", shapes))
        if names
    ]
    if found:
        near = difflib.get_close_matches(missing[0], extra, 1) if missing and extra else []
        hint = (
            f"{near[0]} looks like {missing[0]}: rename the keys" if near else "is it the weights of this very model?"
        )
        raise BadInput(f"weights {source} do not fit the model: {'; '.join(found)}", hint)
    net.load_state_dict(given, strict=False)


def _inside(key: str, path: str | None) -> bool:
    return path is not None and key.startswith(path + ".")


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
