"""`xseg bench`."""

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from xseg.cli.command import Context, command
from xseg.errors import Status

if TYPE_CHECKING:
    from xseg.bench.measure import Ratio


@command("bench")
def bench(
    context: Context,
    only: Annotated[str, typer.Option(metavar="TEXT", help="Only the cases whose name has this in it.")] = "",
    pairs: Annotated[int, typer.Option(min=1, help="Timed pairs per case.")] = 7,
) -> Status:
    """Measure the speed of the numerical pieces as ratios to published algorithms, one thread, CPU time.

    Example: xseg bench --only "random walk" --json
    """
    from xseg.bench.cases import cases
    from xseg.bench.measure import run

    found = []
    for one in run(cases(only), pairs):
        found.append(one)
        if not context.json:
            context.stdout.line(_text(one))
    if context.json:
        context.stdout.line(json.dumps([dataclasses.asdict(one) for one in found]))
    return Status.OK if all(one.equal for one in found) else Status.BUG


def _text(one: "Ratio") -> str:
    if not one.equal:
        verdict = "FAILED: results differ"
    elif one.cost is None:
        verdict = f"{one.ratio:6.2f}x [{one.low:.2f} .. {one.high:.2f}]"
    else:
        verdict = f"{one.cost:6.2f} {one.unit} [{1 / one.high:.2f} .. {1 / one.low:.2f}]"
    amount = f"{one.milliseconds:8.1f} ms" if one.megabytes is None else f"{one.megabytes:8.1f} MB"
    return f"{verdict:30} {amount}  dev {one.difference:.1e}  {one.name}"
