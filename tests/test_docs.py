"""What the documentation tells people to type exists."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from xseg.cli import app
from xseg.errors import Status
from xseg.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.sh")])
COMMANDS = get_command(app).commands


def typed(text):
    """Every `xseg NAME ...` of a page, pipes taken apart, continued lines joined, as lists of words."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        for piece in re.split(r"\s\|\s|\||\$\(", line.replace("$xseg", "xseg")):
            found = re.match(r"[\s$(]*(?:[A-Z_]+=\S+ )*xseg ([a-z][a-z-]+.*)", piece)
            if found:
                yield shlex.split(found[1].rstrip(")`").split(" #")[0], posix=True)


def lines():
    for page in PAGES:
        for words in typed(page.read_text()):
            yield pytest.param(words, id=f"{page.name}: {' '.join(words)[:50]}")


@pytest.mark.parametrize("words", list(lines()))
def test_every_documented_command_and_option_exists(words):
    assert words[0] in COMMANDS, f"no command {words[0]}"
    options = {name for parameter in COMMANDS[words[0]].params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
    assert used - {"-h", "--help"} <= options


def test_every_example_in_a_help_text_exists():
    for name, command in COMMANDS.items():
        examples = [words for words in typed((command.help or "").replace("Example: ", "\n")) if words]
        assert examples, f"{name} has no example"
        for words in examples:
            assert words[0] == name or words[0] in COMMANDS


def test_the_map_of_commands_is_complete():
    assert {row.name for row in STAGES} == set(COMMANDS)


def test_the_page_of_errors_has_every_status_and_shows_those_that_are_no_bug():
    page = (ROOT / "docs/errors.md").read_text()
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == set(map(int, Status))
    shown = {int(number) for number in re.findall(r"^(\d+)$", page, re.MULTILINE)}
    assert set(map(int, Status)) - {Status.BUG} == shown


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
