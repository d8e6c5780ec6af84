"""docs/methods.md says of every method what the registry says, and no more methods than there are."""

import re
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from PIL import Image

from tests.heatmaps.nets import ask, network_for, normalised, pooled
from tests.heatmaps.test_contract import CHEAP
from xseg.device import torchvision_ready
from xseg.heatmaps import methods
from xseg.heatmaps.baselines import Baseline
from xseg.heatmaps.relevance.composites import COMPOSITES, RuleName
from xseg.heatmaps.relevance.method import RelevanceMethod
from xseg.heatmaps.relevance.operations import Kind
from xseg.registry import describe

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "methods.md").read_text()
FIGURE = DOCS / "figures" / "methods.jpg"
RECIPE = (DOCS / "recipes" / "contact_sheet.sh").read_text()
NAMES = [name for name, _ in methods]

# Table 1 of arXiv:2012.02166: gradients, attribution, input domain, class-specific.
TABLE_1 = {
    "integrated-gradients": (True, False, True, False),
    "smooth-grad": (True, False, True, False),
    "full-grad": (True, False, True, False),
    "grad-cam": (True, False, False, True),
    "lrp composite=published alpha=1": (False, True, True, False),
    "lrp composite=published": (False, True, True, False),
    "rap": (False, True, True, False),
    "clrp": (False, True, True, True),
    "sglrp": (False, True, True, True),
    "agf": (True, True, True, True),
}


def section(title, level=3):
    """What stands below a heading, up to the next of its level or above."""
    found = re.search(
        rf"^#{{{level}}} {re.escape(title)}\n(.*?)(?=^#{{1,{level}}} |\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
    assert found, f"no section {title!r}"
    return found[1]


def rows(text, first):
    """Cells of the table whose head begins with `first`; code marks are kept."""
    lines = iter(text.splitlines())
    assert any(line.startswith(f"| {first} |") for line in lines), f"no table {first!r}"
    assert set(next(lines)) <= set("|-")
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def code(cell):
    """The one name that a cell holds in code marks; empty for an empty cell."""
    assert re.fullmatch(r"(`[^`]+`)?", cell), cell
    return cell.strip("`")


def test_the_page_has_a_section_for_each_method_and_for_nothing_else():
    before, _ = PAGE.split("\n## Baselines\n")
    titles = re.findall(r"^### (.*)$", before, re.MULTILINE)
    assert sorted(titles) == NAMES
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("name", NAMES)
def test_a_section_says_what_the_registry_says(name):
    entry, text = describe(name, methods.get(name)), section(name)
    assert text.split("\n\n")[0].strip() == entry["summary"]
    traits = ["signed" if entry["signed"] else "unsigned", "per class" if entry["class_specific"] else "class-agnostic"]
    traits += ["differentiable"] if entry["differentiable"] else []
    facts = {"maps": ", ".join(traits), "serves": entry["models"], "cost": entry["cost"], "source": entry["source"]}
    assert dict(re.findall(r"^- (\w+): (.*)$", text, re.MULTILINE)) == facts


@pytest.mark.parametrize("name", NAMES)
def test_a_section_lists_each_parameter_with_its_default(name):
    stated = [(code(key), code(default)) for key, default, _ in rows(section(name), "parameter")]
    assert stated == [(key, str(of["default"])) for key, of in describe(name, methods.get(name))["parameters"].items()]


@pytest.mark.parametrize("name", NAMES)
def test_a_section_names_each_choice(name):
    text = section(name)
    if "as in [lrp](#lrp)" in text:
        text += section("lrp")
    text += section("Rules") + section("Composites") if "(#rules)" in text else ""
    for key, kind in get_type_hints(methods.get(name)).items():
        if get_origin(kind) is Literal and key in describe(name, methods.get(name))["parameters"]:
            missing = {choice for choice in get_args(kind) if f"`{choice}`" not in text}
            assert not missing, (key, missing)


def table_1():
    return {cells[0].replace("`", ""): cells[1:] for cells in rows(section("Properties", 2), "method")}


def test_the_table_of_properties_has_each_method_and_quotes_the_papers():
    table = table_1()
    assert {name for name in table if "=" not in name} == set(NAMES)
    for name, (gradients, attribution, domain, specific) in TABLE_1.items():
        assert [cell == "yes" for cell in table[name][:3]] == [gradients, attribution, domain], name
        assert table[name][3] == ("yes" if specific else "no"), name
    assert {name for name, cells in table.items() if cells[3] in ("yes", "no")} == set(TABLE_1)


@pytest.mark.parametrize("row", table_1())
def test_the_table_of_properties_says_what_a_run_shows(monkeypatch, row):
    gradients, attribution, domain = (cell == "yes" for cell in table_1()[row][:3])
    name, *settings = row.split()
    method = methods.create(name, [*CHEAP.get(name, []), *settings])
    classifier = network_for(method)  # what is asked of a network only once is asked here
    callers, original = [], torch.autograd.grad

    def spy(*args, **kwargs):
        callers.append(sys._getframe(1).f_globals["__name__"])
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    images = normalised(2)
    maps = method(classifier, ask(images, [(0, 1), (1, 2)]))
    # the engine asks for products with the Jacobian of single steps, by way of torch's own modules
    assert gradients == any(caller.startswith("xseg.") for caller in callers)
    assert attribution == issubclass(methods.get(name), RelevanceMethod)
    assert domain == (maps.shape[1:] == images.shape[2:])


def test_the_engines_tables_are_the_engines():
    assert [code(cells[0]) for cells in rows(section("Steps"), "kind")] == list(get_args(Kind))
    assert [code(cells[0]) for cells in rows(section("Rules"), "rule")] == list(get_args(RuleName))
    stated = {code(name): (code(conv), code(dense), code(first)) for name, conv, dense, first, _ in composites()}
    assert stated == COMPOSITES
    assert [code(cells[0]) for cells in rows(section("Baselines", 2), "name")] == list(get_args(Baseline))


def composites():
    return rows(section("Composites"), "composite")


def test_what_is_called_zennits_is_there():
    torchvision_ready()
    zennit = pytest.importorskip("zennit")
    named = [re.match(r"`(\w+)`", cells[2])[1] for cells in rows(section("Rules"), "rule")]
    assert all(hasattr(zennit.rules, name) for name in named)
    assert all(hasattr(zennit.composites, code(cells[4])) for cells in composites() if cells[4])


def test_the_figure_is_small_and_its_recipe_draws_every_method_that_serves_its_network():
    assert FIGURE.stat().st_size <= 400_000
    with Image.open(FIGURE) as picture:
        assert min(picture.size) >= 800
    drawn = re.search(r"for method in \\\n(.*?)\ndo\n", RECIPE, re.DOTALL)[1].replace("\\", "").split()
    # the demonstration's classifier is a convolutional network
    assert sorted(drawn) == [name for name in NAMES if methods.create(name).serves(pooled()) is None]


def test_links_inside_the_page_lead_to_headings():
    slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", PAGE, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= slugs
