"""Running the command line as its own process, in two ways: started afresh, or forked from `zygote`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120
FLUSH = "os:fsync"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    args: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.decode().splitlines()

    @property
    def json(self) -> dict:
        return json.loads(self.stdout)

    def expect(self, status: int | None) -> "Ended":
        assert status is None or self.status == status, f"{self.args}: {self.status}\n{self.stderr}"
        assert "Traceback" not in self.stderr, self.stderr
        return self


def started(*args: object, status: int | None = 0, stdin: bytes = b"", env: dict[str, str] | None = None) -> Ended:
    """`python -m xseg ARGS` as a user starts it."""
    names = tuple(map(str, args))
    done = subprocess.run(
        [sys.executable, "-m", "xseg", *names],
        input=stdin,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        timeout=SECONDS,
    )
    return Ended(names, done.returncode, done.stdout, done.stderr.decode()).expect(status)


@dataclass
class Running:
    """A forked command that may not have ended yet."""

    zygote: "Zygote"
    args: tuple[str, ...]
    pid: int
    directory: Path
    ended: int | None = field(default=None)

    def poll(self) -> int | None:
        if self.ended is None:
            self.ended = self.zygote.ask({"poll": self.pid})
        return self.ended

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        limit = time.monotonic() + SECONDS
        while self.poll() is None:
            assert time.monotonic() < limit, f"{self.args} hangs"
            time.sleep(0.01)
        assert self.ended is not None
        stderr = (self.directory / "stderr").read_text()
        return Ended(self.args, self.ended, (self.directory / "stdout").read_bytes(), stderr)


class Zygote:
    """Client of the forking process."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("XSEG_IMAGES", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self._scratch = tempfile.TemporaryDirectory(prefix="xseg-cli-")
        self._count = 0

    def ask(self, request: dict) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        *args: object,
        stdin: Path | None = None,
        stdout: Path | None = None,
        env: dict[str, str] | None = None,
        settings: dict[str, object] | None = None,
        die_at: tuple[str, int] | None = None,
        noise: bool = False,
        slow_images: float = 0.0,
    ) -> Running:
        """Fork a command.

        Args:
            args: after `xseg`.
            stdin: a file; default nothing.
            stdout: a file or a named pipe that stands in for the one kept in `Ended`.
            env: variables to add.
            settings: `module:attribute` -> value, set in the forked process.
            die_at: kill -9 at the n-th call of `module:function`.
            slow_images: seconds it takes to open an image.
            noise: a library prints to standard output all the time.
        """
        self._count += 1
        directory = Path(self._scratch.name) / str(self._count)
        directory.mkdir()
        names = tuple(map(str, args))
        request = {
            "args": names,
            "streams": [str(stdin or os.devnull), str(stdout or directory / "stdout"), str(directory / "stderr")],
            "env": env or {},
            "settings": settings or {},
            "die_at": die_at,
            "noise": noise,
            "slow_images": slow_images,
        }
        (directory / "stdout").touch()
        pid = self.ask(request)
        assert pid is not None
        return Running(self, names, pid, directory)

    def __call__(self, *args: object, status: int | None = 0, **how: object) -> Ended:
        """Run a command to its end."""
        return self.start(*args, **how).wait().expect(status)  # type: ignore[arg-type]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)
        self._scratch.cleanup()
