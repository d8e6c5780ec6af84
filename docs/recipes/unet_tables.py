"""Print what docs/recipes/unet.sh measured, as the tables of docs/papers.md.

    python docs/recipes/unet_tables.py OUT

OUT is the recipe's directory; what has not been measured there is left out. Of several seeds it is the mean and, in
brackets, the least and the most; of a single one the 95 % interval over images.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

from methods_tables import head, number, results, row, spread

Found = Mapping[str, Any]
Runs = dict[tuple[str, str], list[Found]]  # by network and method, one of each seed
NAMES = {"unet": "U-Net", "ablated": "U-Net without skips", "plain": "plain CNN", "plain16": "plain CNN at stride 16"}
PUBLISHED = {
    "unet": {"grad-cam": 0.5355, "grad-cam++": 0.7247, "score-cam": 0.7152},
    "ablated": {"grad-cam": 0.4781, "grad-cam++": 0.6304, "score-cam": 0.6436},
}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # what a network holds beside its parameters


def main(out: str) -> None:
    """Print all tables."""
    directory = Path(out)
    for table in (networks, table_1, sweeps, truth):
        lines = list(table(directory))
        print("\n".join(lines), end="\n\n" if lines else "")


def networks(out: Path) -> Iterator[str]:
    """What was trained: number of parameters, and mean average precision on the images that are explained."""
    measured: dict[str, list[Found]] = {}
    for path in sorted(out.glob("accuracy-*.json")):
        found = results(path)
        for run in found.get("runs", [found]):
            measured.setdefault(Path(run["input"]).stem.rpartition("-")[0], []).append(run)
    infos = {path.stem.removesuffix("-info"): path for path in sorted(out.glob("*-info.json"))}
    known = [net for net in NAMES if net in infos or net in measured]
    if not known:
        return
    yield from head("network", "parameters", "seeds", "mean average precision")
    for net in known:
        runs = measured.get(net, [])
        count = f"{parameters(json.loads(infos[net].read_text())):,}" if net in infos else "-"
        yield row(NAMES[net], count, len(runs) or "-", over_seeds(runs, "map") if runs else "-")


def parameters(info: Found) -> int:
    """Numbers that training can change, by `xseg info --json` of a classifier."""
    return sum(prod(shape) for key, shape in info["weights"].items() if not key.endswith(STATISTICS))


def table_1(out: Path) -> Iterator[str]:
    """The localisation score at the threshold that was named, beside the published one."""
    runs = by_network(out)
    if not runs:
        return
    methods = list(dict.fromkeys(method for _, method in runs))
    against = {key: [run["against_reference"] for run in found] for key, found in runs.items()}
    one = next(iter(against.values()))[0]
    yield from head(f"inside the reference above {one['threshold']:g}", *(f"`{method}`" for method in methods))
    for net in named(runs):
        yield row(NAMES[net], *(over_seeds(against.get((net, method), []), "score") for method in methods))
    yield row("a uniform map", *(number(floor(against, method)) for method in methods))
    for net, scores in PUBLISHED.items():
        yield row(
            f"published, {NAMES[net]}", *(f"{scores[method]:.4f}" if method in scores else "-" for method in methods)
        )


def sweeps(out: Path) -> Iterator[str]:
    """The same at every threshold, a table for each method; a ranking that holds at one threshold only is none."""
    runs = by_network(out)
    for position, method in enumerate(dict.fromkeys(method for _, method in runs)):
        nets = [net for net in named(runs) if (net, method) in runs]
        found = {net: [run["against_reference"]["sweep"] for run in runs[net, method]] for net in nets}
        if position:
            yield ""
        yield from head(f"`{method}`, reference above", *(NAMES[net] for net in nets), "a uniform map")
        for place, entry in enumerate(found[nets[0]][0]):
            at = {(net, method): [sweep[place] for sweep in found[net]] for net in nets}
            scores = (over_seeds(at[net, method], "score") for net in nets)
            yield row(f"{entry['threshold']:g}", *scores, number(floor(at, method)))


def truth(out: Path) -> Iterator[str]:
    """Energy and pointing game on the true masks."""
    runs = {key: [run["against_truth"] for run in found] for key, found in by_network(out).items()}
    if not runs or None in next(iter(runs.values())):
        return
    yield from head("network", "method", "images", "energy inside the true mask", "pointing", "empty maps")
    for net in named(runs):
        for (other, method), found in runs.items():
            if other == net:
                images, empty = (fmean(one[key] for one in found) for key in ("images", "empty_maps"))
                measures = [over_seeds(found, key) for key in ("energy", "pointing")]
                yield row(NAMES[net], f"`{method}`", f"{images:g}", *measures, f"{empty:g}")
    uniform = next(iter(runs.values()))[0]["uniform_map"]
    yield row("a uniform map", "", "", number(uniform["energy"]), number(uniform["pointing"]), "")


def by_network(out: Path) -> Runs:
    """The runs of the localisation protocol by network and method, in the order of the seeds."""
    found: Runs = {}
    for path in sorted(out.glob("localisation-*.json"), key=lambda path: int(path.stem.rpartition("-")[2])):
        one = results(path)
        for run in one.get("runs", [one]):
            parts = re.fullmatch(r"([a-z0-9]+)-\d+-(.+)", Path(run["input"]).stem)
            if parts:
                found.setdefault((parts[1], parts[2]), []).append(run)
    return found


def named(runs: Mapping[tuple[str, str], Any]) -> list[str]:
    """The networks among the runs, in the order of the tables."""
    return [net for net in NAMES if any(net == other for other, _ in runs)]


def floor(against: Mapping[tuple[str, str], Sequence[Found]], method: str) -> float:
    """What a uniform map gets in place of a method's."""
    return fmean(one["uniform_map"]["score"] for (_, name), found in against.items() if name == method for one in found)


def over_seeds(runs: Sequence[Found], name: str) -> str:
    """The mean over runs with least and most, or of a single one with its own interval."""
    if not runs:
        return "-"
    values = [run[name] for run in runs]
    interval = runs[0].get(f"{name}_interval") if len(runs) == 1 else (min(values), max(values))
    return spread(fmean(values), interval)


if __name__ == "__main__":
    main(sys.argv[1])
