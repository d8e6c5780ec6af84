import importlib.metadata
import importlib.util
import shutil
import subprocess
from collections import namedtuple

import pytest

from xseg import doctor
from xseg.errors import Unavailable

Usage = namedtuple("Usage", "total used free")


def one(look, about):
    return next(found for found in look() if found.about == about)


def test_the_development_environment_lacks_nothing_that_is_needed():
    found = {one.about: one for one in doctor.versions()}
    assert {"python", "torch", "torchvision", "timm", "h5py", "typer", "rich"} <= set(found)
    looked = [*found.values(), *doctor.networks(), *doctor.files(), *doctor.processors()]
    assert all(one.state == "ok" for one in looked)
    assert found["torch"].found == importlib.metadata.version("torch")


def test_an_old_or_absent_package_is_told_with_the_command_that_mends_it(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.5.1+cpu" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    torch, timm = one(doctor.versions, "torch"), one(doctor.versions, "timm")
    assert (torch.state, torch.found) == ("problem", "2.5.1+cpu, needed 2.6 or newer")
    assert torch.remedy.startswith("pip install -U 'torch>=")
    assert (timm.state, timm.found) == ("problem", "not installed")
    assert timm.remedy.startswith("pip install 'timm>=")


@pytest.mark.parametrize(
    ("found", "least", "old"), [("2.13.0", "2.6", False), ("0.9", "0.21", True), ("1.0", "1.0.15", True)]
)
def test_versions_are_compared_number_by_number(found, least, old):
    assert (doctor._numbers(found) < doctor._numbers(least)) == old


def test_a_look_that_fails_does_not_end_the_others(monkeypatch):
    def broken():
        raise OSError("no such device\nat all")

    broken.__name__ = "space"
    monkeypatch.setattr(doctor, "space", broken)
    found = {one.about: one for one in doctor.findings()}
    assert (found["space"].state, found["space"].found) == ("problem", "cannot be looked at (no such device)")
    assert "weights of timm" in found


def test_a_gpu_that_was_promised_and_is_not_there_is_a_problem(monkeypatch):
    def resolve():
        raise Unavailable("--device auto: no CUDA device", "ask for another node")

    monkeypatch.setattr("xseg.device.resolve", resolve)
    found = one(doctor.devices, "--device auto")
    assert (found.state, found.found, found.remedy) == (
        "problem",
        "--device auto: no CUDA device",
        "ask for another node",
    )


def test_a_crf_backend_that_is_not_installed_is_optional(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else real(name, *rest))
    found = one(doctor.crf_backends, "crf --backend numba")
    assert (found.state, found.remedy) == ("note", "pip install 'xseg[fast]'")
    assert one(doctor.crf_backends, "crf --backend lattice").state == "ok"


def test_little_space_is_a_problem(monkeypatch):
    assert one(doctor.space, "working directory").state == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 1 << 40, 1 << 20))
    assert [found.state for found in doctor.space()] == ["problem", "problem"]
    assert "TMPDIR" in one(doctor.space, "temporary directory").remedy


def test_slurm_is_absent_silent_or_there(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert one(doctor.slurm, "SLURM").state == "note"
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/sbatch")
    for code, state in ((0, "ok"), (1, "problem")):
        done = subprocess.CompletedProcess([], code, "gpu*\ncpu\n", "")
        monkeypatch.setattr(subprocess, "run", lambda *_, done=done, **__: done)
        assert one(doctor.slurm, "SLURM").state == state
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert one(doctor.slurm, "SLURM job").found.startswith("17 on ")


def test_weights_are_looked_for_where_the_hubs_keep_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    timm = one(doctor.weights, "weights of timm")
    assert timm.state == "note"
    assert "HF_HUB_OFFLINE" in timm.found
    (tmp_path / "hub/models--timm--resnet18.a1_in1k").mkdir(parents=True)
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    (tmp_path / "torch/hub/checkpoints/resnet18-f37072fd.pth").touch()
    assert [found.found.partition(" ")[0] for found in doctor.weights()] == ["1", "1"]
