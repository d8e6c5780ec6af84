"""What pages show of a terminal is what a terminal shows."""

import pytest

from tests.transcript import ROOT, differs, run

PAGES = ("tutorial.md", "errors.md")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_the_page_prints_what_it_says(name, tmp_path):
    directory = tmp_path / "here"
    directory.mkdir()
    ended = run(ROOT / "docs" / name, directory)
    assert len(ended) > 10
    wrong = [f"$ {one.command}\n" + "\n".join(printed) for one, printed in ended if differs(one.expected, printed)]
    assert not wrong, "\n\n".join(["prints otherwise:", *wrong])


@pytest.mark.parametrize(
    ("expected", "printed", "wrong"),
    [
        (("a 1.25 of 3",), ["a 9 of 17"], False),
        (("digest 0123456789abcdef",), ["digest fedcba98765432100"], False),
        (("a", "...", "z"), ["a", "b", "c", "z"], False),
        (("a", "...", "z"), ["a", "b"], True),
        (("a",), ["a", "b"], True),
        (("error: x",), ["error: y"], True),
        ((), [], False),
    ],
)
def test_numbers_may_differ_and_words_may_not(expected, printed, wrong):
    assert differs(expected, printed) is wrong
