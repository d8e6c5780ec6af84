from pathlib import Path

import pytest

from xseg.errors import BadInput
from xseg.exchange.names import output_path


def test_ids_with_slashes_name_files_in_subfolders(tmp_path):
    assert output_path(tmp_path, "val/2007_000032", ".png") == tmp_path / "val" / "2007_000032.png"
    assert output_path(tmp_path, "a.b c..d/ü-猫", ".png") == tmp_path / "a.b c..d" / "ü-猫.png"


@pytest.mark.parametrize(
    "bad",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "..", "a\\..\\b", "C:x", "a\nb", "a\x00b", "x" * 252],
)
def test_ids_that_lead_elsewhere_are_refused(bad, tmp_path):
    with pytest.raises(BadInput, match="image id"):
        output_path(tmp_path, bad, ".png")


def test_ids_that_lead_outside_through_a_link_are_refused(tmp_path):
    root = tmp_path / "out"
    root.mkdir()
    (root / "inside").mkdir()
    (root / "link").symlink_to(tmp_path)
    (root / "fine").symlink_to(root / "inside")
    with pytest.raises(BadInput, match="through a link"):
        output_path(root, "link/x", ".png")
    assert output_path(root, "fine/x", ".png").name == "x.png"


def test_a_relative_directory_works(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert output_path(Path("out"), "a", ".png") == Path("out/a.png")
