"""Where the arithmetic runs. The only module that names an accelerator; everything else follows its arguments."""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch

from xseg.errors import Unavailable, UsageError

T = TypeVar("T")
R = TypeVar("R")
_operators: torch.library.Library | None = None


def cores() -> int:
    """Cores this process may use, as SLURM and taskset leave them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve(name: str = "auto", local: int = 0) -> torch.device:
    """The device for `--device`.

    Args:
        name: `auto` (an accelerator if there is one), `cpu`, `cuda`, `cuda:N` or `mps`.
        local: number of this process on its machine: where several GPUs are visible and none is named, it takes that.

    Raises:
        UsageError: not such a name.
        Unavailable: the device is not there, or is there but cannot be used.
    """
    kind, _, index = name.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (index and not (kind == "cuda" and index.isdigit())):
        raise UsageError(f"--device {name}: no such device", "one of auto, cpu, cuda, cuda:N, mps")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available() and not _gpu_promised()):
        _keep_memory()
        return torch.device("cpu")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise Unavailable("--device mps: this torch sees no Metal device", "use --device cpu")
        return torch.device("mps")
    shared = not index and torch.cuda.device_count() > 1
    return _usable_cuda(name if index else f"cuda:{local}" if shared else "cuda")


def _keep_memory() -> None:
    # glibc gives every large block back to the kernel, which clears it again for the next layer: a third to a half of
    # the time of a forward pass over photographs. With these settings the process keeps what it once had.
    trim_threshold, most_mapped = -1, -4
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(most_mapped, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _gpu_promised() -> bool:
    # A job that was given GPUs must not quietly spend its hours on the CPU.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return bool(os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_STEP_GPUS")) and visible not in {"", "-1"}


def _usable_cuda(name: str) -> torch.device:
    hint = "choose --device cpu, or check the driver with nvidia-smi"
    if not torch.cuda.is_available():
        raise Unavailable(f"--device {name}: this torch sees no CUDA device", hint)
    device = torch.device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise Unavailable(f"--device {name}: only {torch.cuda.device_count()} CUDA devices are visible", hint)
    # Full float32: the 10-bit mantissa of TF32 would make results differ from the CPU's in the third digit.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except RuntimeError as error:
        raise Unavailable(f"--device {name}: found but unusable ({str(error).splitlines()[0]})", hint) from error
    return device


def accelerators() -> list[str]:
    """Name and memory of every accelerator that torch sees."""
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {facts.name}, {facts.total_memory / 1e9:.0f} GB")
    return found + ["mps"] * torch.backends.mps.is_available()


def backend_between_processes(device: torch.device) -> str:
    """The library that carries tensors of `device` from process to process."""
    return "nccl" if device.type == "cuda" else "gloo"


def describe(device: torch.device) -> str:
    """Name of the hardware, for provenance."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[object]:
    """Mixed precision on an accelerator; nothing on the CPU, where it does not pay."""
    return torch.autocast(device.type, torch.float16) if enabled and device.type != "cpu" else nullcontext()


def uses_amp(device: torch.device, requested: bool | None) -> bool:
    """Whether `--amp/--no-amp` (None: not given, so off) takes effect on `device`."""
    return bool(requested) and device.type != "cpu"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Limit torch to `count` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # an accelerator's words, and the CPU allocator's


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device's memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
    )


def halving(process: Callable[[Sequence[T]], list[R]], batch: Sequence[T]) -> list[R]:
    """`process(batch)`, in halves whenever the device runs out of memory.

    Raises:
        Unavailable: a single item does not fit.
    """
    try:
        return process(batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise Unavailable(
                "the device's memory does not hold one image and its classes",
                "use --device cpu, a smaller --size or --frame, or a smaller --set chunk=N where the method has it",
            ) from error
    # Outside the handler, so that the traceback no longer keeps the failed batch's tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    return halving(process, batch[:middle]) + halving(process, batch[middle:])


def torchvision_ready() -> None:
    """Make `import torchvision` and `import timm` work on a CPU-only torch; call before either.

    PyPI's torchvision is built for CUDA: on a CPU torch its extension cannot load, and its import then fails on
    two operators that have no schema. Declaring the schemas is enough (the two operators, nms and qnms, are not used).
    """
    global _operators
    if "torchvision" in sys.modules or torch.version.cuda or getattr(torch.version, "hip", None):
        return
    spec = importlib.util.find_spec("torchvision")
    extension = next(Path(spec.origin).parent.glob("_C.*"), None) if spec and spec.origin else None
    if extension is None or _operators is not None:
        return
    try:
        torch.ops.load_library(str(extension))
    except OSError:
        _operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
