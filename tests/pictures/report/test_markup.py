import json
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from xseg.pictures.report.markup import Markup, element, embedded_json, joined

TEXT = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=60)
HOSTILE = '</script><img src=x onerror="alert(1)">'


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))

    def handle_data(self, data):
        self.text += data


def seen(markup):
    parser = Seen()
    parser.feed(markup)
    parser.close()
    return parser


@given(TEXT, TEXT)
def test_text_and_attributes_come_back_as_they_went_in(text, value):
    found = seen(element("p", text, title=value))
    assert found.tags == [("p", [("title", value)])]
    assert found.text == text


def test_markup_is_nested_and_text_beside_it_is_not():
    found = seen(element("p", HOSTILE, element("b", "x"), class_="note", stroke_width=2, hidden=True, role=None))
    assert found.tags == [("p", [("class", "note"), ("stroke-width", "2"), ("hidden", None)]), ("b", [])]
    assert found.text == HOSTILE + "x"
    assert joined(["<", Markup("<i></i>")]) == "&lt;<i></i>"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_embedded_json_means_the_same_and_holds_nothing_that_ends_a_script(value):
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_a_hostile_name_in_a_script_stays_in_it():
    found = seen(f'<script type="application/json">{embedded_json([HOSTILE])}</script>after')
    assert [tag for tag, _ in found.tags] == ["script"]
    assert found.text.endswith("after")
