from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from xseg.artifacts.header import Header, Parent
from xseg.pictures.report.chain import Known, chain_of
from xseg.pictures.report.provenance import drawing, in_words


def known(name, kind, *parents, identity=None, **params):
    header = Header(kind, ("cat",), "step", params, parents=parents, created="now")
    return Known(name, header, identity or f"content of {name}")


CLASSIFIER = known("c.h5", "classifier", Parent("dataset", "d"), Parent("weights", "w"))
HEATMAPS = known("h.h5", "heatmaps", Parent("classifier", "content of c.h5"))
MASKS = known("m.h5", "masks", Parent("heatmaps", "content of h.h5"), lr=0.125)


def described(nodes):
    return [(n.kind, n.known.name if n.known else "", [nodes[p].kind for p in n.parents], n.depth) for n in nodes]


def test_inputs_in_any_order_become_the_chain_with_what_they_name_only():
    nodes = chain_of([MASKS, CLASSIFIER, HEATMAPS])
    assert described(nodes) == [
        ("dataset", "", [], 0),
        ("weights", "", [], 0),
        ("classifier", "c.h5", ["dataset", "weights"], 1),
        ("heatmaps", "h.h5", ["classifier"], 2),
        ("masks", "m.h5", ["heatmaps"], 3),
    ]


def test_a_parent_that_was_a_stream_is_found_by_its_run():
    streamed = known("s.h5", "masks", Parent("heatmaps", f"run:{HEATMAPS.header.run}"))
    assert [row[1:3] for row in described(chain_of([streamed, HEATMAPS]))][1:] == [
        ("h.h5", ["classifier"]),
        ("s.h5", ["heatmaps"]),
    ]


def test_parents_that_name_each_other_end():
    one = known("a", "masks", Parent("masks", "B"), identity="A")
    other = known("b", "masks", Parent("masks", "A"), identity="B")
    nodes = chain_of([one, other, known("c", "masks", Parent("masks", "C"), identity="C")])
    assert len(nodes) == 3
    assert "<svg" in drawing(nodes)


@st.composite
def chains(draw):
    count = draw(st.integers(1, 8))
    rows = [draw(st.sets(st.integers(0, k - 1))) if k else set() for k in range(count)]
    made = [
        known(str(k), "masks", *(Parent("masks", str(p)) for p in sorted(row)), identity=str(k))
        for k, row in enumerate(rows)
    ]
    return draw(st.permutations(made)), rows


@given(chains())
def test_parents_stand_before_children_and_every_edge_is_drawn(case):
    inputs, rows = case
    nodes = chain_of(inputs)
    assert sorted(node.identity for node in nodes) == sorted(known.identity for known in inputs)
    for place, node in enumerate(nodes):
        assert {int(nodes[parent].identity) for parent in node.parents} == rows[int(node.identity)]
        assert all(parent < place for parent in node.parents)
        assert node.depth == max((nodes[parent].depth + 1 for parent in node.parents), default=0)
    assert drawing(nodes).count('class="arrow"') == sum(map(len, rows))


def test_words_have_every_parameter_and_hostile_ones_stay_text():
    hostile = replace(
        MASKS.header,
        params={"lr": 0.125, "fold": {"alpha": 3, "unused": None}},
        provenance={"fold": {"seconds": 7}, "history": [{"step": 1}, {"step": 9}]},
        argv=("x", "<img src=x>"),
    )
    text = in_words(chain_of([Known("<b>.h5", hostile, "id")]))
    for expected in (
        "<dt>lr</dt><dd>0.125</dd>",
        "<dt>fold alpha</dt><dd>3</dd>",
        "<dt>fold seconds</dt><dd>7</dd>",
        "<dd>2 entries, the last: {&quot;step&quot;: 9}</dd>",
        "&lt;b&gt;.h5",
        "&lt;img src=x&gt;",
    ):
        assert expected in text
    assert "unused" not in text
    assert "<img" not in text
