"""`xseg info` and `xseg validate`."""

import json
from typing import Any

from xseg.cli.command import Context, command
from xseg.cli.console import plain
from xseg.cli.merge import ArtifactsIn
from xseg.errors import BadInput


@command("info")
def info(context: Context, inputs: ArtifactsIn) -> None:
    """Say what an artifact holds and where it came from.

    Example: xseg info cam.h5
    """
    from xseg.artifacts.inspect import describe
    from xseg.artifacts.stream import parts

    for part in context.runtime.stop.between(parts(inputs)):
        with part:
            facts = describe(part)
            context.stdout.line(json.dumps(facts) if context.json else _text(part.where, facts))


@command("validate")
def validate(context: Context, inputs: ArtifactsIn) -> None:
    """Check artifacts completely: structure, every image's digest, values and the whole.

    Example: xseg validate cam.h5
    """
    from xseg.artifacts.inspect import problems
    from xseg.artifacts.stream import parts

    found: list[dict[str, Any]] = []
    for part in context.runtime.stop.between(parts(inputs)):
        with part:
            wrong = list(problems(part))
            found.append({"input": part.where, "kind": part.header.kind, "problems": wrong})
            if not context.json:
                context.stdout.line("\n".join(f"{part.where}: {problem}" for problem in wrong) or f"{part.where}: ok")
    if context.json:
        context.stdout.line(json.dumps(found[0] if len(found) == 1 else found))
    count = sum(len(entry["problems"]) for entry in found)
    if count:
        raise BadInput(f"{count} problems found", "make the artifact again")


def _text(where: str, facts: dict[str, object]) -> str:
    lines = [where]
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"  {key:14} {text if len(text) <= 300 else text[:297] + '...'}")
    return plain("\n".join(lines))  # names and attributes come from files
