"""From a function to a command: shared options, standard output kept aside, signals, errors and statuses."""

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from xseg.cli.completion import whole_words
from xseg.cli.console import ConsoleReporter, tell_error
from xseg.cli.options import SHARED, TALK
from xseg.cli.stdout import Stdout, stdout_aside
from xseg.errors import OutputFailed, Status, Stopped, UsageError, XsegError
from xseg.runs.ranks import this_rank
from xseg.runs.shards import Shard
from xseg.runs.signals import StopFlag, past_stopping, stop_flag
from xseg.runs.target import Target
from xseg.stages import stage
from xseg.version import __version__

if TYPE_CHECKING:
    from xseg.runs.runtime import Runtime

app = typer.Typer(
    name="xseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Image-level labels to segmentation masks through explanation heatmaps.",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xseg {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Print the version.")
    ] = False,
) -> None:
    pass


class Context:
    """What a command body gets beside its own options.

    Attributes:
        runtime: the shared options, resolved.
        stdout: the real standard output, for the result.
        json: whether the result is wanted as JSON.
    """

    def __init__(self, runtime: "Runtime", stdout: Stdout, json: bool) -> None:
        self.runtime = runtime
        self.stdout = stdout
        self.json = json


def command(name: str, *shared: str) -> Callable[[Callable[..., Status | None]], Callable[..., None]]:
    """Register a function as `xseg NAME`; it gets a `Context`, then its own options by name.

    Args:
        name: of a row in `stages`.
        shared: names of shared options the command takes; the talking ones come always.
    """
    names = (*shared, *TALK)

    def decorate(function: Callable[..., Status | None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]
        extra = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=SHARED[key][1], annotation=SHARED[key][0])
            for key in names
        ]

        @functools.wraps(function)
        def run(**values: Any) -> None:  # noqa: ANN401 - typer fills them in
            options = {key: values.pop(key) for key in names}
            raise typer.Exit(int(_guarded(function, name, options, values)))

        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*parameters, *extra])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*parameters, *extra)}
        app.command(name, short_help=stage(name).summary)(run)
        return run

    return decorate


def _guarded(function: Callable[..., Status | None], name: str, options: dict[str, Any], own: dict[str, Any]) -> Status:
    with stop_flag() as stop:
        return _told(function, name, options, own, stop)


def _told(
    function: Callable[..., Status | None],
    name: str,
    options: dict[str, Any],
    own: dict[str, Any],
    stop: StopFlag,
) -> Status:
    """Run the command; errors are told and become a status."""
    try:
        with stdout_aside() as stdout:
            verbosity = -1 if options["quiet"] else options["verbose"]
            reporter = ConsoleReporter(options["progress"], verbosity)
            try:
                _refuse_words(sys.argv)
                _refuse_inputs(options, own)
                runtime = _runtime(options, stdout)
                runtime.reporter, runtime.stop = reporter, stop
                return function(Context(runtime, stdout, options["json"]), **own) or Status.OK
            finally:
                reporter.close()
    except Stopped as error:
        tell_error(error)
        return error.status if stop.signal is None else stop.status
    except XsegError as error:
        if os.environ.get("XSEG_DEBUG"):
            traceback.print_exc()
        return tell_error(error)
    except BrokenPipeError:
        return Status.BROKEN_PIPE
    except KeyboardInterrupt:
        return Status.INTERRUPTED
    except OSError as error:
        if error.errno is None or error.errno not in _DISK_ERRORS:
            raise
        return tell_error(
            OutputFailed(f"{error.filename or 'output'}: {error.strerror}", "free some space and run again")
        )


def _refuse_words(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{word.encode(errors='replace').decode()}: not UTF-8", "rename it") from error


def _refuse_inputs(options: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse an output that is one of the inputs: it would be replaced by what is made of it."""
    output = options.get("output") or options.get("score_output")
    if output in {None, "-"} or not Path(str(output)).exists():
        return
    for value in own.values():
        for name in value if isinstance(value, list | tuple) else [value]:
            if isinstance(name, str | Path) and _is_same_file(name, str(output)):
                raise UsageError(f"-o {output} is an input of this command", "give another -o")


def _is_same_file(name: str | Path, output: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(name).is_file() and Path(name).samefile(output)
    return False


_DISK_ERRORS = {5, 27, 28, 122}  # EIO, EFBIG, ENOSPC, EDQUOT


def _runtime(options: dict[str, Any], stdout: Stdout) -> "Runtime":
    from xseg.runs.runtime import Runtime  # torch and h5py come with it: not before a command runs

    fields = (
        "images",
        "device",
        "batch_size",
        "workers",
        "amp",
        "seed",
        "limit",
        "resume",
        "overwrite",
        "allow_missing",
    )
    known = {key: options[key] for key in (*fields, "max_failures") if key in options}
    if options.get("shard"):
        known["shard"] = Shard.parse(options["shard"])
    target = stdout.target(options["output"]) if "output" in options else Target()
    if options.get("output_dir"):
        target = Target(path=Path(options["output_dir"]))
    if options.get("score_output") == "-":
        raise UsageError("-o -: scores go to a file", "give -o PATH, or print the result with --json")
    if options.get("score_output"):
        target = Target(path=Path(options["score_output"]))
    return Runtime(target=target, argv=("xseg", *sys.argv[1:]), rank=this_rank(), **known)


def _open_what_is_closed() -> None:
    # The next file that is opened would get the number, and what a library prints would go into it.
    for handle, mode in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(handle)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != handle:
                os.dup2(opened, handle)
                os.close(opened)
            if handle == 0:
                sys.stdin = os.fdopen(0)
            if handle == 2:
                sys.stderr = os.fdopen(2, "w")
            if handle == 1:
                closed = OutputFailed("standard output is closed", "redirect it to /dev/null if nobody reads it")
                sys.exit(int(tell_error(closed)))


def _flushed(stream: TextIO, handle: int) -> bool:
    try:
        stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), handle)
        return False
    return True


def _trained_with_others() -> bool:
    together = sys.modules.get("xseg.training.together")
    return together is not None and bool(together.KEPT)


def main() -> None:
    """Entry point: run the command line and end with its status."""
    status: int = Status.OK
    _open_what_is_closed()
    with stop_flag():
        try:
            with whole_words():
                app()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else Status.OK if error.code is None else Status.BUG
        past_stopping()
    # A reader that went away must not change the status, or cause a second message, at interpreter shutdown.
    _flushed(sys.stderr, 2)
    if not _flushed(sys.stdout, 1):
        status = status or Status.BROKEN_PIPE
    if _trained_with_others():
        os._exit(int(status))  # see `xseg.training.together`
    sys.exit(int(status))
