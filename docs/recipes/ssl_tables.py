"""Print what docs/recipes/ssl.sh measured, as the tables of docs/papers.md.

    python docs/recipes/ssl_tables.py OUT

OUT is the recipe's directory; what has not been measured there is left out.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NEIGHBOURS = {"difference": "difference", "sum": "sum", "none": "without"}


def main(out: str) -> None:
    """Print all tables."""
    directory = Path(out)
    for table in (perturbation, segmentation, layers):
        lines = list(table(directory))
        print("\n".join(lines), end="\n\n" if lines else "")


def perturbation(out: Path) -> Iterator[str]:
    """Table 4: area under the negative curve, in percent."""
    for net, runs in measured(out, "perturbation"):
        yield from head(f"negative perturbation, {net}", "images", *NEIGHBOURS.values())
        for method, found in by_method(net, runs):
            areas = [spread(found[name], "auc_negative") for name in NEIGHBOURS if name in found]
            yield row(f"`{method}`", next(iter(found.values()))["images"], *areas)


def segmentation(out: Path) -> Iterator[str]:
    """Figure 4a: pixel accuracy and average precision of the hard mask, in percent."""
    for net, runs in measured(out, "segmentation"):
        yield from head(f"segmentation, {net}", "neighbour", "accuracy", "mAP (hard)", "AP (soft)")
        for method, found in by_method(net, runs):
            for name in NEIGHBOURS:
                if name in found:
                    yield row(f"`{method}`", NEIGHBOURS[name], *scores(found[name]))


def layers(out: Path) -> Iterator[str]:
    """Figure 4b: the same of the probes."""
    for net, runs in measured(out, "layers"):
        yield from head(f"probe of {net}", "accuracy", "mAP (hard)", "AP (soft)")
        for run in runs:
            yield row(f"`{Path(run['input']).stem.partition('-layer-')[2]}`", *scores(run))


def measured(out: Path, name: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Of each network its name and the runs of one protocol."""
    for path in sorted(out.glob(f"*-{name}.json")):
        found = json.loads(path.read_text())
        yield path.name.removesuffix(f"-{name}.json"), found.get("runs", [found])


def by_method(net: str, runs: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Of each method its runs by neighbour."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        method, _, neighbour = Path(run["input"]).stem.removeprefix(f"{net}-").rpartition("-")
        found.setdefault(method, {})[neighbour] = run
    yield from found.items()


def scores(run: dict[str, Any]) -> list[str]:
    """Accuracy and average precisions of the imagenet-seg protocol."""
    return [spread(run, name) for name in ("pixel_accuracy", "ap_hard", "ap_soft")]


def spread(run: dict[str, Any], name: str) -> str:
    """A share in percent, with its interval where there is one."""
    low, high = run.get(f"{name}_interval") or (None, None)
    return f"{100 * run[name]:.1f}" + (f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None else "")


def head(*cells: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield row(*cells)
    yield "|" + "---|" * len(cells)


def row(*cells: object) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main(sys.argv[1])
