from dataclasses import dataclass
from typing import Literal

import pytest

from xseg.errors import UsageError
from xseg.registry import parse_settings


@dataclass
class Thing:
    count: int = 1
    size: float | None = None
    whole: bool = False
    way: Literal["first", "second"] = "first"
    other: Literal["first", "second"] | None = None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("count=3", {"count": 3}),
        ("size=2.5", {"size": 2.5}),
        ("size=none", {"size": None}),
        ("whole=yes", {"whole": True}),
        ("whole = off", {"whole": False}),
        ("way=second", {"way": "second"}),
        ("other=second", {"other": "second"}),
        ("other=none", {"other": None}),
    ],
)
def test_settings_become_values_of_their_field(setting, expected):
    assert parse_settings(Thing, [setting], "thing") == expected


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("count=x", "'x' is not a valid int"),
        ("size=x", "'x' is not a valid float"),
        ("whole=2", "'2' is not a valid bool"),
        ("way=third", "no such choice"),
        ("other=third", "no such choice"),
        ("colour=red", "not a parameter of thing"),
        ("count", "not a parameter of thing"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(setting, message):
    with pytest.raises(UsageError, match=message):
        parse_settings(Thing, [setting], "thing")
