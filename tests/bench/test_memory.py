"""Bytes of tensors at the peak, against counting by hand."""

import torch

from tests.guided.nets import plain, some_batch
from tests.guided.test_task import LRP, task_of
from xseg.bench.guidance import guidance_cases
from xseg.bench.measure import Case, measure
from xseg.bench.memory import peak_bytes


def test_tensors_count_while_they_live_and_once_for_all_their_views():
    leaf = torch.ones(1000)

    def chain():
        x = leaf.exp()  # 4000
        y = x.view(10, 100).T * 2  # a view, then 4000
        del x
        z = y + 1  # 4000, when x is gone
        return z.reshape(-1)[0:3]  # 4000, a copy of what is transposed, beside y and z

    assert peak_bytes(chain) == 12000
    assert peak_bytes(lambda: leaf.view(10, 100)) == 0
    assert peak_bytes(lambda: [leaf.exp() for _ in range(5)]) == 20000
    assert peak_bytes(lambda: [leaf.exp() for _ in range(5)][-1].zero_()) == 20000

    def one_after_the_other():
        for _ in range(5):
            leaf.exp()

    assert peak_bytes(one_after_the_other) == 4000


def test_graphs_are_held_until_their_backward_pass():
    leaf = torch.ones(1000, requires_grad=True)

    def held(times):
        return peak_bytes(lambda: torch.autograd.grad(sum(leaf.exp().sum() for _ in range(times)), leaf))

    assert held(6) - held(5) >= 4000


def test_one_class_at_a_time_holds_the_graph_of_one_class():
    classifier, batch = plain(), some_batch()

    def peak(at_once):
        task = task_of(classifier, LRP, at_once=at_once)
        parameters = list(classifier.parameters())
        return peak_bytes(lambda: torch.autograd.grad(task.loss(batch, 0)[0], parameters))

    whole, single, double = peak(0), peak(1), peak(2)
    assert single < 0.75 * whole
    assert single < double < whole


def test_memory_is_reported_as_such():
    leaf = torch.ones(1000)
    case = Case("case", lambda: leaf.exp(), lambda: [leaf.exp() for _ in range(3)].pop(), 0, unit="u", spent=peak_bytes)
    found = measure(case)
    assert found.equal
    assert found.cost == 3
    assert found.megabytes == 0.012


def test_the_cases_name_what_they_compare():
    names = [case.name for case in guidance_cases()]
    assert len(names) == len(set(names)) == 10
    assert all("5 classes" in name for name in names)
