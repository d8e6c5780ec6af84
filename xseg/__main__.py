"""`xseg` and `python -m xseg`."""

import os
import signal
from types import FrameType


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(130 if number == signal.SIGINT else 75)


def main() -> None:
    """Run the command line; a signal that comes while it is being imported ends it as any other does."""
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), _end)
    from xseg.cli import main as run

    run()


if __name__ == "__main__":
    main()
