"""What every test shares: one torch thread, the skip rules for GPUs and for files kept outside the repository."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

OUTSIDE = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    group = parser.getgroup(
        "reliability", "how hard the tests of docs/reliability.md try; `make reliability` does it in full"
    )
    group.addoption("--moments", type=int, default=2, help="Moments of a command at which it is killed.")
    group.addoption("--images", type=int, default=20, help="Images that go through a pipe.")
    group.addoption("--mutants", type=int, default=60, help="Damaged artifacts and streams.")


def pytest_terminal_summary(terminalreporter):
    """The counts that tests have recorded, in words for docs/reliability.md."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "counts" and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {value}")


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a shell runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a file kept beside the repository (fixtures, photographs, weights), or a skip that says which."""

    def find(name: str) -> Path:
        path = OUTSIDE / name
        if not path.exists():
            pytest.skip(f"{name} is not here")
        return path

    return find
