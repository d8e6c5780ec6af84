"""Parameters that `--set` takes, and their choices: read from the sources, for importing them takes seconds."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

Parameters = dict[str, tuple[str, ...]]
"""Choices by name of the parameter; none where it is a number or a text."""

_ROOT = Path(__file__).parents[1]
_REGISTERED = re.compile(r'^@methods\.register\("([^"]+)"\)\n(?:@.*\n)*class (\w+)', re.MULTILINE)
_OWN_MODELS = {
    "unet": ("xseg.classifier.unet", "UNetShape"),
    "multi-task-unet": ("xseg.classifier.multi_task", "MultiTaskShape"),
    "hybrid-vit": ("xseg.classifier.hybrid", "HybridShape"),
}


@cache
def own_methods() -> dict[str, tuple[str, str]]:
    """Module and class of xseg's own explanation methods, by name."""
    found: dict[str, tuple[str, str]] = {}
    for path in (_ROOT / "heatmaps").rglob("*.py"):
        module = ".".join(("xseg", *path.relative_to(_ROOT).with_suffix("").parts))
        found |= {name: (module, cls) for name, cls in _REGISTERED.findall(path.read_text())}
    return found


def method_parameters(name: str) -> Parameters:
    """Of an explanation method; none for a plug-in's."""
    return _fields(*own_methods()[name]) if name in own_methods() else {}


def model_parameters(name: str) -> Parameters:
    """Of a model, as `--model` names it."""
    if name in _OWN_MODELS:
        module, cls = _OWN_MODELS[name]
        presets = _Module.of(module).assigned["PRESETS"]
        names = presets.keys if isinstance(presets, ast.Dict) else []
        return {"preset": tuple(str(ast.literal_eval(name)) for name in names if name)} | _fields(module, cls)
    kind, colon, _ = name.partition(":")
    allowed = ast.literal_eval(_Module.of("xseg.classifier.sources").assigned["_OPTIONS"])
    return dict.fromkeys(sorted(allowed.get(kind if colon else "timm", ())), ())


class _Module:
    """What the source of a module of xseg defines at its top, by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.classes: dict[str, ast.ClassDef] = {}
        self.assigned: dict[str, ast.expr] = {}
        self._imported: dict[str, str] = {}
        for line in ast.parse(_ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py").read_text()).body:
            if isinstance(line, ast.ClassDef):
                self.classes[line.name] = line
            elif isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                self.assigned[line.targets[0].id] = line.value
            elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
                self.assigned[line.target.id] = line.value
            elif isinstance(line, ast.ImportFrom) and (line.module or "").startswith("xseg."):
                self._imported |= {alias.asname or alias.name: str(line.module) for alias in line.names}

    @staticmethod
    @cache
    def of(name: str) -> "_Module":
        return _Module(name)

    def where(self, name: str) -> "_Module":
        """The module that defines what this one calls by a name."""
        return _Module.of(self._imported[name]).where(name) if name in self._imported else self


def _fields(module: str, cls: str) -> Parameters:
    """Of a dataclass: its bases' first, as dataclasses order them."""
    home = _Module.of(module).where(cls)
    found: Parameters = {}
    if cls not in home.classes:
        return found
    for base in home.classes[cls].bases:
        if isinstance(base, ast.Name):
            found |= _fields(home.name, base.id)
    for line in home.classes[cls].body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and not _of_class(line.annotation):
            found[line.target.id] = tuple(_choices(home, line.annotation))
    return found


def _of_class(annotation: ast.expr) -> bool:
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "ClassVar"


def _choices(home: _Module, annotation: ast.expr) -> Iterator[str]:
    """What a bool or a Literal may be, whatever name it bears."""
    match annotation:
        case ast.Name(id="bool"):
            yield from ("true", "false")
        case ast.Name(id=name) if name in home.where(name).assigned:
            yield from _choices(home.where(name), home.where(name).assigned[name])
        case ast.BinOp(left=left, right=right):
            yield from (*_choices(home, left), *_choices(home, right))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            for one in inside.elts if isinstance(inside, ast.Tuple) else [inside]:
                yield from [str(one.value)] if isinstance(one, ast.Constant) else _choices(home, one)
