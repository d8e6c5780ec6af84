import pytest

from xseg.heatmaps import methods
from xseg.registry import describe, parameters

CHUNKED = [name for name, cls in methods if "chunk" in describe(name, cls)["parameters"]]


def test_some_methods_work_in_chunks():
    assert {"score-cam", "rise", "integrated-gradients"} <= set(CHUNKED)


@pytest.mark.parametrize("name", CHUNKED)
def test_what_only_memory_depends_on_does_not_decide_a_run(name):
    given, other = methods.create(name), methods.create(name, ["chunk=3"])
    assert other.chunk == 3
    assert parameters(given) == parameters(other)
    assert "chunk" not in parameters(given)
