"""`xseg doctor`."""

import json

from xseg.cli.command import Context, command
from xseg.errors import Status


@command("doctor")
def doctor(context: Context) -> Status:
    """Say what works on this machine (versions, devices, CRF backends, space, SLURM, weights) and how to mend the rest.

    Example: xseg doctor
    """
    from xseg.doctor import findings

    found = []
    for one in findings():
        found.append(one)
        if not context.json:
            mark = {"ok": "ok      ", "note": "note    ", "problem": "PROBLEM "}[one.state]
            context.stdout.line(f"{mark} {one.about}: {one.found}" + (f"; {one.remedy}" if one.remedy else ""))
    if context.json:
        context.stdout.line(json.dumps([one.to_json() for one in found]))
    return Status.UNAVAILABLE if any(one.state == "problem" for one in found) else Status.OK
