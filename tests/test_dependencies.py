"""What xseg imports is what it declares, pins and may be passed on; known vulnerabilities are told."""

import ast
import importlib.machinery
import importlib.util
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BESIDES = {"crf", "fast", "onnx"}  # extras that commands make use of
OF_TORCH = {"onnx", "onnxscript"}  # imported by torch's exporter, for xseg
NAMES = {"PIL": "pillow", "pydensecrf": "pydensecrf2", "sklearn": "scikit-learn", "llvmlite": "numba"}
PERMISSIVE = {
    "mit", "mit-cmu", "0bsd", "bsd", "bsd-2-clause", "bsd-3-clause", "apache-2.0", "isc", "psf-2.0", "zlib", "bsl-1.0",
    "cc0-1.0", "mpl-2.0", "llvm-exception", "mit license", "bsd license", "apache software license",
    "isc license (iscl)",
}  # fmt: skip


def declared(group=None):
    lines = PROJECT["dependencies"] if group is None else PROJECT["optional-dependencies"][group]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def modules():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "xseg").rglob("*.py")
    }


def imported(path, at_once):
    """Names of modules that a file imports; `at_once`: while it is being imported itself."""
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        only_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not (at_once and (only_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))):
            waiting += ast.iter_child_nodes(node)


def others(names):
    """Distributions of these modules, but for xseg's own and Python's."""
    top = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"xseg"}
    return {canonicalize_name(NAMES.get(name, name)) for name in top}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    found = others(name for path in modules().values() for name in imported(path, at_once=False))
    needed, besides = set(declared()), set().union(*map(declared, BESIDES))
    assert needed <= found
    assert besides - OF_TORCH <= found
    assert found <= needed | besides | set(declared("dev"))
    for name, path in modules().items():
        if not name.startswith("xseg.bench"):  # which measures against what is there of dev
            assert others(imported(path, at_once=False)) <= needed | besides, name


def test_extras_are_imported_only_when_they_are_wanted():
    at_once = {name: set(imported(path, at_once=True)) for name, path in modules().items()}
    tied = {name for name, found in at_once.items() if others(found) - set(declared())}
    while more := {name for name, found in at_once.items() if found & tied} - tied:
        tied |= more
    assert tied  # the compiled CRF is
    assert not [
        name for name in tied if name.startswith(("xseg.cli", "xseg.api")) or name.endswith(("step", "__init__"))
    ]
    assert all(name.startswith("xseg.labels.") for name in tied)


def test_every_dependency_is_pinned_within_its_range():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(one.name): one for one in map(Requirement, (x for x in lines if x[:1] not in "#"))}
    for name, needed in [pair for group in (None, *sorted(BESIDES)) for pair in declared(group).items()]:
        (pin,) = pinned.pop(name).specifier
        assert pin.operator == "=="
        assert needed.specifier.contains(pin.version)
    assert not pinned


def installed():
    """Every distribution that a plain install brings."""
    found, waiting = {}, list(declared())
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = distribution(name)
            needed = [one for one in map(Requirement, found[name].requires or ())
                      if one.marker is None or one.marker.evaluate({"extra": ""})]  # fmt: skip
            waiting += [canonicalize_name(one.name) for one in needed]
    return found


def licences(metadata):
    """Names in what a distribution says of its licence, lower-case; an empty one where it says nothing."""
    if expression := metadata["License-Expression"]:
        return {one.strip(" ()").lower() for one in re.split(r" AND | OR | WITH ", expression)}
    classified = [one for one in metadata.get_all("Classifier") or () if one.startswith("License :: OSI Approved :: ")]
    if classified:
        return {one.rpartition(" :: ")[2].lower() for one in classified}
    return {one.strip().lower() for one in (metadata["License"] or "").split(" AND ")}


def test_licences_of_what_an_install_brings_are_known_and_permissive():
    try:
        found = installed()
    except PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed")
    # what torch's builds for a GPU bring is their maker's, and nothing of xseg imports it
    strange = {
        name: licences(one.metadata)
        for name, one in found.items()
        if not name.startswith(("nvidia-", "cuda-")) and not licences(one.metadata) <= PERMISSIVE
    }
    assert {"torch", "numpy", "jinja2"} <= set(found)
    assert strange == {}


@pytest.fixture(scope="module")
def audit():
    loader = importlib.machinery.SourceFileLoader("audit", str(ROOT / ".ci/audit"))
    loaded = importlib.util.module_from_spec(importlib.util.spec_from_loader("audit", loader))
    loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize(
    ("packages", "status", "told"),
    [
        ([], 0, "skipped"),
        ([{"name": "a", "skip_reason": "not found"}], 0, "skipped"),
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 of 1 packages looked up"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}], 1, "a 1: X-1 (mended in 2)"),
    ],
)
def test_a_known_vulnerability_fails_and_silence_does_not(audit, capsys, packages, status, told):
    assert audit.told(packages) == status
    assert told in capsys.readouterr().out
