"""Print what docs/recipes/methods.sh and perturbation.sh measured as the tables of docs/results.md and docs/papers.md.

    python docs/recipes/methods_tables.py OUT

OUT is the recipe's directory of artifacts; what has not been measured there is left out.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]


def main(out: str) -> None:
    """Print all tables."""
    directory = Path(out)
    for table in (seeds, specificity, sanity, foreground, localisation, multilabel, chain, perturbation, ablations):
        lines = list(table(directory))
        print("\n".join(lines), end="\n\n" if lines else "")


def seeds(out: Path) -> Iterator[str]:
    """Mean IoU at the threshold of the tuning images, the best of them first."""
    found = [(name, one, results(out / f"{name}-tune-scores.json")) for name, one in each(out, "scores")]
    if not found:
        return
    found.sort(key=lambda entry: -entry[1]["miou"])
    yield from head("method", "threshold", "best on the tuning images", "`val` [95 % interval]", "best-swept")
    for name, one, tune in found:
        mean = spread(one["miou"], one["miou_interval"])
        tuned = number(tune["best"]["miou"])
        yield row(f"`{name}`", f"{one['background_threshold']:.2f}", tuned, mean, number(one["best"]["miou"]))


def specificity(out: Path) -> Iterator[str]:
    """The class-specificity protocol, the most specific first."""
    if not (out / "specificity.json").exists():
        return
    runs = results(out / "specificity.json")["runs"]
    runs.sort(key=lambda run: -run["own_fraction"])
    yield from head(
        "method", "images", "correlation", "own share", "other share", "own / (own + other)", "own above", "empty"
    )
    for run in runs:
        name, share = (
            Path(run["input"]).stem.removesuffix("-val"),
            spread(run["own_fraction"], run["own_fraction_interval"]),
        )
        means = [number(run[key]) for key in ("pearson", "own_share", "other_share")]
        yield row(f"`{name}`", run["images"], *means, share, number(run["own_above_other"]), run["empty_maps"])


def sanity(out: Path) -> Iterator[str]:
    """Absolute rank correlation at each stage, the method that loses most of its map first; labels if measured."""
    found = list(each(out, "sanity"))
    if not found:
        return
    labels = {name: one["stages"][0] for name, one in each(out, "labels-sanity")}
    found.sort(key=lambda entry: -1 if entry[1]["stages"][-1]["spearman_absolute"] is None else worst(entry[1]))
    stages = [stage["stage"] for stage in found[0][1]["stages"]]
    learned = ["random labels"] if labels else []
    yield from head("method", "images", *(f"`{stage}`" for stage in stages), "SSIM, all", "HOG, all", *learned)
    for name, one in found:
        values = [spread(stage["spearman_absolute"], stage["spearman_absolute_interval"]) for stage in one["stages"]]
        if labels:
            label = labels.get(name, {"spearman_absolute": None, "spearman_absolute_interval": None})
            learned = [spread(label["spearman_absolute"], label["spearman_absolute_interval"])]
        last = one["stages"][-1]
        yield row(f"`{name}`", one["images"], *values, number(last["ssim"]), number(last["hog"]), *learned)


def worst(run: Found) -> float:
    """The last stage's likeness; a method without a model, which keeps all, comes last."""
    return float(run["stages"][-1]["spearman_absolute"]) + (0 if run["needs_model"] else 1)


def chain(out: Path) -> Iterator[str]:
    """Seed, CRF, walk and masks of the methods that were carried through."""
    found = sorted(each(out, "chain"), key=lambda entry: -entry[1]["runs"][-1]["miou"])
    if not found:
        return
    yield from head("seed", "root", "seed", "CRF alone", "random walk", "walk + CRF")
    for name, one in found:
        seed = results(out / f"{name}-scores.json")
        stages = [spread(run["miou"], run["miou_interval"]) for run in (seed, *one["runs"])]
        yield row(f"`{name}`", (out / f"{name}-root.txt").read_text().strip(), *stages)


def foreground(out: Path) -> Iterator[str]:
    """The imagenet-seg protocol under both presets, the best soft average precision first."""
    presets = {name: out / f"foreground-{name}.json" for name in ("agf", "chefer")}
    if not all(path.exists() for path in presets.values()):
        return
    runs = {name: results(path)["runs"] for name, path in presets.items()}
    columns = [f"{measure}, {name}" for name in presets for measure in ("accuracy", "mIoU", "F1")]
    yield from head("method", *columns, "soft AP [95 % interval]")
    for agf, chefer in sorted(zip(*runs.values(), strict=True), key=lambda pair: -pair[0]["ap_soft"]):
        cells = [number(run[key]) for run in (agf, chefer) for key in ("pixel_accuracy", "miou", "f1")]
        yield row(f"`{method(agf, '-val')}`", *cells, spread(agf["ap_soft"], agf["ap_soft_interval"]))


def localisation(out: Path) -> Iterator[str]:
    """Energy and pointing game on the true masks, the most energy in the object first; a uniform map is the floor."""
    if not (out / "localisation.json").exists():
        return
    runs = results(out / "localisation.json")["runs"]
    yield from head("method", "images", "energy [95 % interval]", "pointing [95 % interval]", "empty maps")
    for run in sorted(runs, key=lambda run: -run["against_truth"]["energy"]):
        truth = run["against_truth"]
        pairs = [spread(truth[key], truth[f"{key}_interval"]) for key in ("energy", "pointing")]
        yield row(f"`{method(run, '-val')}`", truth["images"], *pairs, truth["empty_maps"])
    floor = runs[0]["against_truth"]["uniform_map"]
    yield row("a uniform map", "", number(floor["energy"]), number(floor["pointing"]), "")


def multilabel(out: Path) -> Iterator[str]:
    """The voc-multilabel protocol, the best average precision first."""
    if not (out / "multilabel.json").exists():
        return
    runs = sorted(results(out / "multilabel.json")["runs"], key=lambda run: -run["ap"])
    yield from head("method", "images", "average precision [95 % interval]", "pixel accuracy [95 % interval]")
    for run in runs:
        pairs = [spread(run[key], run[f"{key}_interval"]) for key in ("ap", "pixel_accuracy")]
        yield row(f"`{method(run, '-predicted')}`", run["images"], *pairs)


def perturbation(out: Path) -> Iterator[str]:
    """Areas of both directions by the maps of the predicted and of the labelled class, the best negative one first."""
    runs = of_both(out, "perturbation")
    if not runs:
        return
    beside = by_file(predicted for _, predicted, _ in runs)
    yield from head(
        "method", "negative, predicted", "negative, target", "positive, predicted", "positive, target",
        "negative less random", "tied",
    )  # fmt: skip
    for name, predicted, target in sorted(runs, key=lambda entry: -entry[1]["auc_negative"]):
        areas = [spread(run[key], run[f"{key}_interval"]) for key in ("auc_negative", "auc_positive")
                 for run in (predicted, target)]  # fmt: skip
        yield row(f"`{name}`", *areas, apart(predicted, beside), number(predicted["tie_fraction"]))


def ablations(out: Path) -> Iterator[str]:
    """Negative areas of attribution-guided factorization without one of its parts."""
    runs = of_both(out, "ablations")
    beside = by_file(predicted for _, predicted, _ in runs)
    if runs:
        yield from head("method", "negative, predicted", "negative, target", "less `agf`, predicted")
    for name, predicted, target in sorted(runs, key=lambda entry: -entry[1]["auc_negative"]):
        areas = [spread(run["auc_negative"], run["auc_negative_interval"]) for run in (predicted, target)]
        yield row(f"`{name}`", *areas, apart(predicted, beside, "agf"))


def of_both(out: Path, kind: str) -> list[tuple[str, Found, Found]]:
    """Method, run of the predicted class's maps, run of the labelled class's maps."""
    found: dict[str, dict[str, Found]] = {}
    for path in sorted(out.glob(f"{kind}*.json")):
        for run in results(path)["runs"]:
            found.setdefault(method(run), {})[run["maps_of"]] = run
    return [(name, runs["predicted"], runs["labels"]) for name, runs in found.items() if len(runs) == 2]


def by_file(runs: Iterable[Found]) -> dict[str, Found]:
    """Runs by what they are called where others are compared with them."""
    return {run["input"]: run for run in runs}


def apart(run: Found, beside: Mapping[str, Found], other: str = "random") -> str:
    """How much more negative area than another method's maps of the same classes, on the same images.

    A run is compared with those before it, so the difference may stand with either of the two.
    """
    for one in run["differences"]:
        if one["input"] in beside and method(one) == other:
            return spread(one["auc_negative"], one["auc_negative_interval"])
    for found in beside.values():
        for one in found["differences"] if method(found) == other else []:
            if one["input"] == run["input"]:
                low, high = one["auc_negative_interval"]
                return spread(-one["auc_negative"], [-high, -low])
    return "-"


def method(run: Found, ending: str = "") -> str:
    """The method's name in these tables, from the file that it is in."""
    return Path(run["input"].split(" (")[0]).stem.removesuffix(ending)


def each(out: Path, ending: str) -> Iterator[tuple[str, Any]]:
    """Names of methods and their results of one kind; other kinds may end alike."""
    longer = [other for other in ("tune-scores", "labels-sanity") if other != ending]
    for path in sorted(out.glob(f"*-{ending}.json")):
        if not any(path.stem.endswith(f"-{other}") for other in longer):
            yield path.stem.removesuffix(f"-{ending}"), results(path)


def results(path: Path) -> Any:  # noqa: ANN401 - JSON
    """What `xseg evaluate --json` printed."""
    return json.loads(path.read_text())


def head(*names: str) -> tuple[str, str]:
    """The first two lines of a table."""
    return row(*names), "|" + "---|" * len(names)


def row(*cells: object) -> str:
    """One line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def number(value: float | None) -> str:
    """Three decimals; "-" for None."""
    return "-" if value is None else f"{value:.3f}"


def spread(value: float | None, interval: Sequence[float] | None) -> str:
    """A number with its interval."""
    return number(value) + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
