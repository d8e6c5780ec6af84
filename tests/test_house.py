"""The rules of the house that a program can check."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "xseg").rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60
# A command's function is mostly its options, one a line: what counts is the body below the help text.
HEAVY = {"torch", "torchvision", "timm", "numpy", "h5py", "PIL", "scipy", "numba"}
LIGHT = [ROOT / "xseg" / name for name in ("__init__.py", "stages.py", "errors.py", "registry.py", "version.py")]
LIGHT += sorted((ROOT / "xseg" / "cli").glob("*.py"))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imported(tree, top_only=False):
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def body_length(function):
    body = function.body
    if len(body) > 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_within_their_budget(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert {node.name: size for node in functions if (size := body_length(node)) > LONGEST_FUNCTION} == {}


def test_nobody_imports_click():
    # Typer brings its own; the package is not installed everywhere.
    assert [name_of(path) for path in MODULES if "click" in roots(imported(tree_of(path)))] == []


def test_only_the_artifacts_know_hdf5():
    found = {name_of(path) for path in MODULES if "h5py" in roots(imported(tree_of(path)))}
    found.remove("xseg/bench/files.py")  # it writes what artifacts are compared with
    assert found
    assert {Path(name).parent.name for name in found} == {"artifacts"}


def test_only_one_module_names_an_accelerator():
    found = [name_of(path) for path in MODULES if re.search("cuda", without_help(path.read_text()), re.IGNORECASE)]
    assert found == ["xseg/device.py"]


@pytest.mark.parametrize("path", LIGHT, ids=name_of)
def test_what_help_needs_imports_nothing_heavy(path):
    assert not HEAVY & roots(imported(tree_of(path), top_only=True))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_prints_or_swallows_everything(path):
    tree = tree_of(path)
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not {"print", "exec", "eval"} & calls
    assert all(node.type for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler))


def tree_of(path):
    return ast.parse(path.read_text())


def roots(names):
    return {name.split(".")[0] for name in names}


def without_help(text):
    """Code without comments, docstrings and the words of the help, where the name is what users type."""
    tree = ast.parse(text)
    kept = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name | ast.alias)]
    names = {getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", "") for node in kept}
    exact = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return " ".join([*names, *(text for text in exact if re.fullmatch(r"cuda(:\d+)?", text))])
