import os

import pytest
import torch
from safetensors.torch import save_file

from tests.classifier.nets import tiny
from xseg.classifier.weights import load_into, read_weights
from xseg.errors import BadInput, InputMissing


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_runs_nothing(tmp_path):
    torch.save({"state_dict": {"w": Malicious(tmp_path / "ran")}}, tmp_path / "evil.pth")
    with pytest.raises(BadInput, match="run code"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("nest", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_nested_and_prefixed_state_dicts_are_found(tmp_path, nest, prefix):
    state = tiny(3).state_dict()
    torch.save(nest({prefix + key: value for key, value in state.items()}), tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").keys() == state.keys()


def test_safetensors_are_read(tmp_path):
    state = tiny(3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(read[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_truncated_or_foreign_file_is_bad_input(tmp_path, name):
    path = tmp_path / name
    if name == "w.pth":
        torch.save(tiny(3).state_dict(), path)
    else:
        save_file(tiny(3).state_dict(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>not found</html>", b"\x80\x02X"):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=name):
            read_weights(path)


def test_a_file_without_a_state_dict_is_bad_input(tmp_path):
    torch.save({"model": {"epoch": 3}}, tmp_path / "w.pth")
    with pytest.raises(BadInput, match="no state dict"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(InputMissing):
        read_weights(tmp_path / "absent.pth")


def test_missing_unexpected_and_misshapen_tensors_are_listed_by_name():
    net, state = tiny(3), tiny(3).state_dict()
    state["net.0.0.weight"] = state.pop("0.0.weight")
    state["1.1.weight"] = torch.zeros(5)
    with pytest.raises(BadInput) as caught:
        load_into(net, state, "w.pth")
    assert "missing 0.0.weight" in caught.value.problem
    assert "unexpected net.0.0.weight" in caught.value.problem
    assert "1.1.weight (5,), needed (16,)" in caught.value.problem
    assert "net.0.0.weight looks like 0.0.weight" in caught.value.hint


def test_a_refused_state_dict_leaves_the_network_as_it_was():
    net, state = tiny(3), tiny(3).state_dict()
    before = net[0][0].weight.detach().clone()
    state["extra"] = torch.zeros(1)
    with pytest.raises(BadInput, match="unexpected extra"):
        load_into(net, state, "w.pth")
    assert torch.equal(net[0][0].weight, before)


def test_the_head_that_is_replaced_may_be_absent_or_of_another_size():
    for state in (tiny(9).state_dict(), {k: v for k, v in tiny(3).state_dict().items() if not k.startswith("5.")}):
        net = tiny(3)
        head = net[5].weight.detach().clone()
        load_into(net, state, "w.pth", skip="5")
        assert torch.equal(net[5].weight, head)
        assert torch.equal(net[0][0].weight, state["0.0.weight"])


def test_counters_of_old_files_may_be_missing():
    state = {k: v for k, v in tiny(3).state_dict().items() if not k.endswith("num_batches_tracked")}
    load_into(tiny(3), state, "w.pth")
