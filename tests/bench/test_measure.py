import time

import pytest
import torch

from xseg.bench.cases import cases
from xseg.bench.measure import Case, measure, run
from xseg.bench.scoring import scoring_cases
from xseg.errors import UsageError


def busy(seconds, result):
    def way():
        start = time.process_time()
        while time.process_time() - start < seconds:
            pass
        return torch.tensor([result])

    return way


def test_the_ratio_is_reference_over_ours():
    found = measure(Case("case", busy(0.02, 1.0), busy(0.004, 1.0), 0), pairs=3)
    assert found.low <= found.ratio <= found.high
    assert 2 < found.ratio < 10
    assert found.equal
    assert found.cost is None


def test_a_result_that_differs_is_not_equal_whatever_its_speed():
    found = measure(Case("case", busy(0.01, 1.0), busy(0, 1.5), 0.1), pairs=1)
    assert not found.equal
    assert found.difference == 0.5


def test_not_a_number_is_not_equal():
    assert not measure(Case("case", busy(0, 1.0), busy(0, float("nan")), 1e9), pairs=1).equal


def test_a_unit_of_cost_needs_not_compute_the_same():
    case = Case("case", busy(0.004, 7.0), busy(0.02, 1.0), 0, expected=lambda: torch.tensor([1.0]), unit="f")
    found = measure(case, pairs=3)
    assert found.equal
    assert 2 < found.cost < 10
    assert found.cost == pytest.approx(1 / found.ratio)


def test_another_clock_is_read_around_each_way_and_pairs_are_bounded():
    now, calls = [0.0], []

    def way(seconds):
        def run():
            calls.append(seconds)
            now[0] += seconds
            return torch.zeros(1)

        return run

    found = measure(Case("case", way(6.0), way(2.0), 0, clock=lambda: now[0], most_pairs=2), pairs=9)
    assert (found.low, found.ratio, found.high, found.milliseconds) == (3.0, 3.0, 3.0, 2000.0)
    assert calls == [6.0, 2.0, 6.0, 2.0, 2.0, 6.0]


def test_threads_are_put_back():
    before = torch.get_num_threads()
    measured = run([Case("case", busy(0, 1.0), busy(0, 1.0), 0)], pairs=1)
    assert next(measured).equal
    assert list(measured) == []
    assert torch.get_num_threads() == before


def test_cases_are_chosen_by_part_of_their_name():
    names = [case.name for case in cases("resnet50")]
    assert names
    assert all("resnet50" in name for name in names)
    assert {"lrp", "agf", "grad-cam", "integrated-gradients", "perturbation"} <= {name.split()[0] for name in names}
    with pytest.raises(UsageError, match="no case has this in its name"):
        cases("no such case")


@pytest.mark.parametrize("case", scoring_cases(), ids=lambda case: case.name)
def test_scores_equal_those_of_their_peers(case):
    found = measure(case, pairs=1)
    assert found.equal
    assert found.name in {one.name for one in cases("against")}
