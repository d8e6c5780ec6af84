import json

import pytest
import torch

from tests.artifacts.build import CLASSES, encoded, failure, header, record, write
from xseg.artifacts import Header, Part
from xseg.artifacts.inspect import describe, problems
from xseg.artifacts.weights import read_weights, write_weights
from xseg.errors import BadInput, CannotCreate, InputMissing


def wrong(tmp_path, change):
    one = record(2)
    change(one.arrays)
    (tmp_path / "a.h5").write_bytes(encoded([one]))
    with Part(tmp_path / "a.h5", "a.h5") as part:
        return list(problems(part))


def test_a_sound_artifact_has_no_problems_and_its_facts_are_json(tmp_path):
    write(tmp_path / "a.h5", [0, 1, 2, 4], header(shard="0/1"), [failure(3, "torn")])
    with Part(tmp_path / "a.h5", "a.h5") as part:
        assert list(problems(part)) == []
        facts = json.loads(json.dumps(describe(part)))
    assert (facts["kind"], facts["images"], facts["total"], facts["shard"]) == ("heatmaps", 4, 6, "0/1")
    assert facts["failures"] == [{"index": 3, "id": failure(3).id, "reason": "torn"}]
    assert facts["map_size"] == "image"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("maps", 1.5, "leaves"), ("maps", -1.01, "leaves"), ("maps/class_id", 4, "ids"), ("maps/class_id", -2, "ids")],
)
def test_values_without_meaning_are_problems(tmp_path, name, value, told):
    def change(arrays):
        arrays[name].flat[0] = value

    (problem,) = wrong(tmp_path, change)
    assert told in problem
    assert record(2).id in problem


def test_a_class_that_is_there_twice_is_a_problem(tmp_path):
    assert "distinct" in wrong(tmp_path, lambda arrays: arrays["maps/class_id"].fill(1))[0]


@pytest.fixture
def network(tmp_path):
    state = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.tracked": torch.tensor(3), "h": torch.zeros(2).half()}
    write_weights(tmp_path / "n.h5", Header("classifier", CLASSES, "train-cls"), '{"model": "m"}', state)
    return tmp_path / "n.h5", state


def test_a_network_is_read_as_it_was_written(network):
    path, state = network
    head, content, config, found = read_weights(str(path), "classifier")
    assert (head.classes, config, list(found)) == (CLASSES, '{"model": "m"}', list(state))
    assert all(torch.equal(found[key], state[key]) and found[key].dtype == state[key].dtype for key in state)
    with Part(path, "n") as part:
        assert list(problems(part)) == []
        assert describe(part)["weights"] == {"b.weight": [2, 3], "a.tracked": [], "h": [2]}
        assert part.stored_content() == content
    with pytest.raises(CannotCreate):
        write_weights(path, head, config, state)


def test_a_network_of_another_kind_or_with_a_flipped_bit_is_refused(network, tmp_path):
    path, state = network
    with pytest.raises(BadInput, match="this step needs affinity"):
        read_weights(str(path), "affinity")
    with pytest.raises(BadInput, match="this step needs classifier"):
        read_weights(str(write(tmp_path / "a.h5", [0])), "classifier")
    with pytest.raises(InputMissing):
        read_weights(str(tmp_path / "none.h5"), "classifier")
    data = bytearray(path.read_bytes())
    data[data.index(state["b.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        read_weights(str(path), "classifier")


def test_the_same_network_has_the_same_content_and_another_has_not(network, tmp_path):
    path, state = network
    head = Header("classifier", CLASSES, "train-cls")
    contents = [read_weights(str(path), "classifier")[1]]
    for number, other in enumerate((state, {**state, "h": torch.ones(2).half()}, {"x": torch.zeros(1)})):
        write_weights(tmp_path / f"{number}.h5", head, '{"model": "m"}', other)
        contents.append(read_weights(str(tmp_path / f"{number}.h5"), "classifier")[1])
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3
