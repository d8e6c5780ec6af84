"""Runs the transcripts of a page of documentation, and tells where they no longer say what comes.

A transcript is a block that begins with ```console: commands after `$ `, and below each what it prints on both
streams. All blocks of a page are typed into one bash, which starts in an empty directory. Of what is printed, numbers
and digests may differ, and `...` stands for any further lines. The directory is called `/home/you` on the page.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600
HOME = "/home/you"
_END = "\x1e"
_PROGRESS = re.compile(r"\S+ \d+/\d+ +\d+%, ")  # told when a step takes longer than it should on a page


@dataclass(frozen=True)
class Typed:
    """One command and the lines below it."""

    command: str
    expected: tuple[str, ...]


def transcripts(page: Path) -> list[Typed]:
    """Every command of a page, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, lines = _command(part.splitlines())
            found.append(Typed(command, tuple(lines)))
    return found


def _command(lines: list[str]) -> tuple[str, list[str]]:
    count = next(i for i, line in enumerate(lines, 1) if not line.endswith("\\"))
    return "\n".join(lines[:count]), lines[count:]


def run(page: Path, directory: Path, environment: dict[str, str] | None = None) -> list[tuple[Typed, list[str]]]:
    """Type a page into a bash that starts in `directory`; what each command printed."""
    typed = transcripts(page)
    bin_ = directory.with_name(directory.name + "-bin")
    bin_.mkdir()
    program = bin_ / "xseg"
    program.write_text(f"#!{sys.executable}\nfrom xseg.__main__ import main\n\nmain()\n")
    program.chmod(0o755)
    path = os.pathsep.join([str(bin_), str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
    script = "".join(f"{one.command}\nlast=$?; printf '{_END}'; (exit $last)\n" for one in typed)
    ended = subprocess.run(
        ["bash"], input=script, cwd=directory, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=SECONDS,
    )  # fmt: skip
    *printed, _ = ended.stdout.split(_END)
    assert len(printed) == len(typed), ended.stdout
    return [
        (one, [line for line in lines.replace(str(directory), HOME).splitlines() if not _PROGRESS.match(line)])
        for one, lines in zip(typed, printed, strict=True)
    ]


def differs(expected: tuple[str, ...], printed: list[str]) -> bool:
    """Whether lines are others than those of the page, numbers and digests aside."""
    pattern = "".join(r"(?:.*\n)*" if line == "..." else re.escape(_form(line)) + r"\n" for line in expected)
    return re.fullmatch(pattern, "".join(_form(line) + "\n" for line in printed)) is None


def _form(line: str) -> str:
    line = re.sub(r"\b[0-9a-f]{12,}\b", "#", line.strip())
    return re.sub(r"\s+", " ", re.sub(r"\d+(?:\.\d+)?(?:e-?\d+)?", "0", line))
