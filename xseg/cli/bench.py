"""`xseg bench`."""

import dataclasses
import json
from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.errors import Status


@command("bench")
def bench(context: Context, pairs: Annotated[int, typer.Option(min=1, help="Timed pairs per case.")] = 7) -> Status:
    """Measure the speed of the numerical pieces as ratios to published algorithms, one thread, CPU time.

    Example: xseg bench --json
    """
    from xseg.bench.cases import cases
    from xseg.bench.measure import run

    found = run(cases(), pairs)
    if context.json:
        context.stdout.line(json.dumps([dataclasses.asdict(one) for one in found]))
    else:
        for one in found:
            verdict = f"{one.ratio:6.2f}x [{one.low:.2f} .. {one.high:.2f}]" if one.equal else "FAILED: results differ"
            context.stdout.line(f"{verdict}  {one.milliseconds:8.1f} ms  dev {one.difference:.1e}  {one.name}")
    return Status.OK if all(one.equal for one in found) else Status.BUG
