"""`xseg methods`."""

import json
from typing import Any

from xseg.cli.command import Context, command


@command("methods")
def methods(context: Context) -> None:
    """List the explanation methods: what they are, whether their maps are signed, and their parameters.

    Example: xseg methods --json
    """
    from xseg.heatmaps import methods as registry
    from xseg.registry import describe

    rows: list[dict[str, Any]] = [describe(name, method) for name, method in registry]
    context.stdout.line(json.dumps(rows) if context.json else "\n".join(map(_text, rows)))


def _text(row: dict[str, Any]) -> str:
    traits = [
        "signed" if row["signed"] else "unsigned",
        "per class" if row["class_specific"] else "class-agnostic",
        *([] if row["needs_model"] else ["looks at no model"]),
        *(["differentiable"] if row["differentiable"] else []),
    ]
    lines = [f"{row['name']}: {row['summary']}", f"    {', '.join(traits)}; {row['source']}"]
    lines += [f"    serves: {row['models']}; cost for K classes: {row['cost']}"]
    lines += [f"    --set {name}={parameter['default']}" for name, parameter in row["parameters"].items()]
    return "\n".join(lines)
