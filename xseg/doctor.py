"""What xseg finds on a machine: versions, devices, optional parts, space, SLURM, weights; problems with remedies."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from xseg.errors import XsegError

State = Literal["ok", "note", "problem"]
_OPTIONAL = {"numba": "fast", "pydensecrf": "crf"}  # importable name -> extra of xseg
_LITTLE_SPACE = 1 << 30
_SECONDS = 10  # that a program may take to answer


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: what.
        state: `ok`; `note` if something optional is not there; `problem` if commands will fail.
        found: what was found.
        remedy: what to do about it; empty where there is nothing to do.
    """

    about: str
    state: State
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """All fields."""
        return asdict(self)


def findings() -> Iterator[Finding]:
    """Look at everything, one thing after another; what looks at it may fail, and says so itself."""
    for look in (versions, networks, devices, processors, crf_backends, files, space, slurm, weights):
        try:
            yield from look()
        except Exception as error:  # a broken installation breaks in any way, and the rest is still worth knowing
            reason = (str(error) or type(error).__name__).splitlines()[0]
            yield Finding(look.__name__, "problem", f"cannot be looked at ({reason})", "install xseg anew")


def versions() -> Iterator[Finding]:
    """Python, and every package that xseg needs, against the least version it names."""
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")
    for name, least in _required():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "problem", "not installed", f"pip install '{name}>={least}'")
            continue
        if _numbers(found) < _numbers(least):
            yield Finding(name, "problem", f"{found}, needed {least} or newer", f"pip install -U '{name}>={least}'")
        else:
            yield Finding(name, "ok", found)


def _required() -> Iterator[tuple[str, str]]:
    """Names and least versions of what an installed xseg requires without extras."""
    for line in importlib.metadata.requires("xseg") or ():
        requirement, _, marker = line.partition(";")
        found = re.fullmatch(r"([\w.-]+)\s*>=\s*([\w.]+)", requirement.strip())
        if found and "extra" not in marker:
            yield found[1], found[2]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def networks() -> Iterator[Finding]:
    """Whether torchvision and timm can be imported, which they cannot beside another build of torch."""
    from xseg.device import torchvision_ready

    torchvision_ready()
    for name in ("torchvision", "timm"):
        try:
            importlib.import_module(name)
            yield Finding(f"import {name}", "ok", "works")
        except Exception as error:  # an extension that does not fit raises anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            yield Finding(f"import {name}", "problem", reason, "pip install -c constraints.txt torch torchvision timm")


def devices() -> Iterator[Finding]:
    """What `--device auto` takes, and every accelerator."""
    from xseg.device import accelerators, resolve

    try:
        yield Finding("--device auto", "ok", str(resolve()))
    except XsegError as error:
        yield Finding("--device auto", "problem", error.problem, error.hint)
    found = accelerators()
    for name in found:
        yield Finding("accelerator", "ok", name)
    if not found:
        yield Finding("accelerator", "note", "none, and a processor trains many times slower")


def processors() -> Iterator[Finding]:
    """Cores, as SLURM and taskset leave them, and what limits the threads."""
    from xseg.device import cores

    limits = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    said = ", ".join(f"{name}={value}" for name, value in limits.items())
    yield Finding("cores", "ok", f"{cores()} of {os.cpu_count()}{', ' if said else ''}{said}")


def crf_backends() -> Iterator[Finding]:
    """The backends of `crf`, and which one it takes."""
    from xseg.labels.backends import resolve_backend

    yield Finding("crf --backend lattice", "ok", "always there")
    for module, extra in _OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            why = "the CRF on a processor is several times slower" if module == "numba" else "nothing depends on it"
            yield Finding(f"crf --backend {module}", "note", f"not installed: {why}", f"pip install 'xseg[{extra}]'")
            continue
        try:
            resolve_backend(module)
            yield Finding(f"crf --backend {module}", "ok", "works")
        except XsegError as error:
            yield Finding(f"crf --backend {module}", "problem", error.problem, error.hint)


def files() -> Iterator[Finding]:
    """The HDF5 library, and whether it has what artifacts use."""
    from xseg.artifacts.library import has_gzip, hdf5_version

    locking = os.environ.get("HDF5_USE_FILE_LOCKING")
    said = hdf5_version() + (f", HDF5_USE_FILE_LOCKING={locking}" if locking else "")
    if has_gzip():
        yield Finding("HDF5", "ok", said)
    else:
        yield Finding("HDF5", "problem", f"{said}, without the gzip that artifacts use", "pip install -U h5py")


def space() -> Iterator[Finding]:
    """Free space and leave to write, in the working directory and where streams are kept."""
    for about, directory in (("working directory", Path.cwd()), ("temporary directory", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(directory).free
        said = f"{directory}: {free / 1e9:.1f} GB free"
        if not os.access(directory, os.W_OK):
            yield Finding(about, "problem", f"{directory}: may not be written", _MOVE[about])
        elif free < _LITTLE_SPACE:
            yield Finding(about, "problem", said, _MOVE[about])
        else:
            yield Finding(about, "ok", said)


_MOVE = {
    "working directory": "give outputs a place elsewhere: -o DIRECTORY/NAME.h5",
    "temporary directory": "export TMPDIR=DIRECTORY, with space for an artifact that comes through a pipe",
}


def slurm() -> Iterator[Finding]:
    """Whether jobs can be submitted, and whether this is one."""
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        yield Finding("SLURM job", "ok", f"{job} on {os.environ.get('SLURM_JOB_NODELIST', platform.node())}")
    program = shutil.which("sbatch")
    if program is None:
        yield Finding("SLURM", "note", "no sbatch here", "xseg slurm prints scripts; submit them where sbatch is")
        return
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%P"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode == 0:
            yield Finding("SLURM", "ok", f"{program}, partitions {' '.join(done.stdout.split())}")
            return
    yield Finding("SLURM", "problem", f"{program} is there, but no controller answers", "ask whoever keeps the cluster")


def weights() -> Iterator[Finding]:
    """Where `--weights hub` keeps published weights, and how many are there for a machine without a network."""
    import torch

    homes = {
        "weights of timm": Path(os.environ.get("HF_HUB_CACHE") or _hugging_face() / "hub"),
        "weights of torchvision": Path(torch.hub.get_dir()) / "checkpoints",
    }
    for about, home in homes.items():
        found = [path for pattern in ("models--timm--*", "*.pth") for path in home.glob(pattern)]
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in {"", "0"}
        if found:
            yield Finding(about, "ok", f"{len(found)} in {home}")
        else:
            said = f"none in {home}" + (", and HF_HUB_OFFLINE forbids to fetch them" if offline else "")
            yield Finding(about, "note", said, "--weights hub fetches them, or give a file: --weights FILE")


def _hugging_face() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
