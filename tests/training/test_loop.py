import pytest
import torch
from torch import nn

from xseg.errors import BadInput, Stopped, Unavailable, UsageError
from xseg.training.checkpoint import Checkpoint
from xseg.training.loop import LoopSettings, train
from xseg.training.optim import OptimSettings, make_optimizer
from xseg.training.schedule import poly

CPU = torch.device("cpu")
STEPS = 12


class Regression:
    """Noisy targets, dropout, a batch norm: everything that could drift when a run is resumed."""

    def __init__(self, dropout=0.3, size=8, limit=None):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Dropout(dropout), nn.Linear(9, 2))
        self.size, self.limit, self.sizes, self.spoil = size, limit, [], None

    def batches(self, steps):
        for step in steps:
            random = torch.Generator().manual_seed(step)
            x = torch.randn(self.size, 5, generator=random)
            yield {
                "x": x * (float("nan") if step == self.spoil else 1),
                "y": torch.randn(self.size, 2, generator=random),
            }

    def loss(self, batch, step, total=None):
        if self.limit and len(batch["x"]) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        self.sizes.append(len(batch["x"]))
        share = len(batch["x"]) / total["samples"] if total else 1
        loss = share * (self.module(batch["x"]) - batch["y"]).square().mean()
        return loss, {"twice": 2 * loss}

    def terms(self, batch):
        return {"samples": len(batch["x"])}


def run(task, checkpoint=None, clip=None, **options):
    optimizer = make_optimizer(task.module, ["3"], OptimSettings(lr=0.05))
    return train(
        task,
        optimizer,
        lambda step: poly(step, STEPS),
        LoopSettings(STEPS, seed=5, report_every=5, clip=clip),
        device=CPU,
        checkpoint=checkpoint,
        **options,
    )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("stops", [[1], [6], [3, 7, 11]])
def test_a_run_stopped_and_continued_ends_with_the_same_weights_bit_for_bit(tmp_path, stops):
    whole = Regression()
    history = run(whole)
    for stop in stops:
        task, seen = Regression(), []
        checkpoint = Checkpoint(tmp_path / "out", "run")
        checkpoint.claim()
        torch.rand(stop)  # the caller's random numbers must not matter
        with pytest.raises(Stopped):
            run(task, checkpoint, should_stop=lambda s=seen, n=stop: bool(s) and s[-1] >= n,
                progress=lambda done, total, values, s=seen: s.append(done))  # fmt: skip
        assert seen[-1] == stop
        assert not same(task.module, whole.module)
    resumed = Regression()
    checkpoint = Checkpoint(tmp_path / "out", "run")
    checkpoint.claim()
    assert run(resumed, checkpoint) == history
    assert same(resumed.module, whole.module)


def test_a_crash_between_two_checkpoints_is_made_good(tmp_path):
    whole, crashed, resumed = Regression(), Regression(), Regression()
    run(whole)

    def crash(done, total, values):
        if done == 8:
            raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path / "out", "run", steps=3)
    checkpoint.claim()
    with pytest.raises(KeyboardInterrupt):
        run(crashed, checkpoint, progress=crash)
    assert checkpoint.load()["state"]["step"] == 6
    run(resumed, checkpoint)
    assert same(resumed.module, whole.module)


def test_a_checkpoint_of_other_shapes_is_told(tmp_path):
    task, checkpoint = Regression(), Checkpoint(tmp_path / "out", "run")
    checkpoint.claim()
    run(task, checkpoint)
    state = checkpoint.load()
    state["module"]["3.weight"] = torch.zeros(1, 1)
    checkpoint.save(state)
    with pytest.raises(BadInput, match="does not fit"):
        run(Regression(), checkpoint)


def test_a_finished_run_is_not_trained_again(tmp_path):
    checkpoint = Checkpoint(tmp_path / "out", "run")
    checkpoint.claim()
    first, again = Regression(), Regression()
    history = run(first, checkpoint)
    assert run(again, checkpoint) == history
    assert again.sizes == []
    assert same(first.module, again.module)


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run(Regression())
    assert torch.equal(torch.rand(3), expected)


def test_when_memory_runs_out_the_batch_is_split_with_the_same_result():
    whole, split = Regression(dropout=0.0, size=10), Regression(dropout=0.0, size=10, limit=3)
    for task in (whole, split):
        task.module[1].eval()
        task.module[1].train = lambda mode=True: None
    history = run(whole)
    assert set(whole.sizes) == {10}
    short = run(split)
    assert set(split.sizes) == {3, 1}
    for a, b in zip(whole.module.state_dict().values(), split.module.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert short == [pytest.approx(entry, rel=1e-5) for entry in history]


def test_a_pass_that_ran_out_of_memory_leaves_no_trace_in_the_statistics():
    tries = []

    class Late(Regression):
        def loss(self, batch, step, total=None):
            found = super().loss(batch, step, total)
            tries.append(len(batch["x"]))
            if len(tries) == 1:
                raise torch.OutOfMemoryError("out of memory")
            return found

    task = Late()
    run(task)
    # The first step counts as two halves, each later step as two halves too; the failed pass does not count.
    assert int(task.module[1].num_batches_tracked) == 2 * STEPS


def test_memory_that_does_not_hold_one_sample_is_unavailable():
    class Hungry(Regression):
        def loss(self, batch, step, total=None):
            raise RuntimeError("CUDA error: out of memory")

    with pytest.raises(Unavailable, match="one sample"):
        run(Hungry())


def test_another_error_of_the_task_is_not_taken_for_lack_of_memory():
    class Broken(Regression):
        def loss(self, batch, step, total=None):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run(Broken())


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(tmp_path):
    task = Regression()
    task.spoil = 7
    checkpoint = Checkpoint(tmp_path / "out", "run", steps=1)
    checkpoint.claim()
    with pytest.raises(UsageError, match="diverged at step 7: the loss is nan"):
        run(task, checkpoint)
    assert checkpoint.load()["state"]["step"] == 7


def test_weights_that_are_not_numbers_are_never_saved(tmp_path):
    task = Regression()

    def spoil(done, total, values):
        if done == 4:
            task.module[3].weight.data[0, 0] = float("inf")

    checkpoint = Checkpoint(tmp_path / "out", "run", steps=2)
    checkpoint.claim()
    with pytest.raises(UsageError, match=r"diverged at step 4: 3\.weight"):
        run(task, checkpoint, progress=spoil)
    assert checkpoint.load()["state"]["step"] == 2


def test_clipping_bounds_the_length_of_a_step():
    task = Regression()
    before = [p.detach().clone() for p in task.module.parameters()]
    steps = []

    def measure(done, total, values):
        if done == 1:
            steps.append([p.detach() - b for p, b in zip(task.module.parameters(), before, strict=True)])

    run(task, clip=1e-3, progress=measure)
    # 20 lr is the largest rate (biases of the new layer); weight decay adds a little.
    assert 0 < torch.cat([d.flatten() for d in steps[0]]).norm() < 1e-3 * 20 * 0.05 + 0.05 * 10 * 5e-4 * 5


def test_the_history_holds_means_of_each_stretch_and_the_last_one_is_shorter():
    seen = []
    history = run(Regression(), progress=lambda done, total, values: seen.append(values))
    losses = [values["loss"] for values in seen if values]
    assert [entry["step"] for entry in history] == [5, 10, 12]
    assert history[0]["loss"] == pytest.approx(sum(losses[:5]) / 5)
    assert history[2]["twice"] == pytest.approx(sum(losses[10:]))
    assert history[1]["lr"] == pytest.approx(sum(poly(step, STEPS) for step in range(5, 10)) / 5)


def test_the_module_ends_in_eval_mode_even_after_an_error():
    task = Regression()
    run(task)
    assert not task.module.training
    task.spoil = 0
    with pytest.raises(UsageError):
        run(task)
    assert not task.module.training


@pytest.mark.gpu
def test_mixed_precision_learns_and_resumes_on_a_gpu(tmp_path):
    device = torch.device("cuda")
    tasks = [Regression(dropout=0.0), Regression(dropout=0.0)]
    for task in tasks:
        task.module.to(device)
    settings = LoopSettings(STEPS, seed=5, amp=True)
    whole, resumed = tasks
    train(whole, make_optimizer(whole.module, [], OptimSettings()), lambda s: 1.0, settings, device=device)
    checkpoint = Checkpoint(tmp_path / "out", "run")
    checkpoint.claim()
    seen = []
    options = {"device": device, "checkpoint": checkpoint, "progress": lambda *values: seen.append(values)}
    optimizer = make_optimizer(resumed.module, [], OptimSettings())
    with pytest.raises(Stopped):
        train(resumed, optimizer, lambda s: 1.0, settings, should_stop=lambda: len(seen) == 5, **options)
    optimizer = make_optimizer(resumed.module, [], OptimSettings())
    train(resumed, optimizer, lambda s: 1.0, settings, **options)
    for a, b in zip(whole.module.state_dict().values(), resumed.module.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


class Exploding(Regression):
    """Its loss is finite at the steps `bad`, and its gradient is not."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def loss(self, batch, step, total=None):
        loss, values = super().loss(batch, step, total)
        if step in self.bad:
            weight = self.module[0].weight
            loss = loss + (weight - weight.detach()).square().sum().sqrt()  # 0, with a slope of 0/0
        return loss, values


def run_with_skips(task, skips, checkpoint=None, **options):
    optimizer = make_optimizer(task.module, ["3"], OptimSettings(lr=0.05))
    settings = LoopSettings(STEPS, seed=5, report_every=STEPS, clip=1.0, skips=skips)
    return train(
        task, optimizer, lambda step: poly(step, STEPS), settings, device=CPU, checkpoint=checkpoint, **options
    )


def test_a_batch_too_small_for_a_batch_norm_is_told():
    with pytest.raises(UsageError, match=r"no statistics \(step 0\)") as told:
        run(Regression(size=1))
    assert "--batch-size" in told.value.hint


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_counted():
    task, before = Exploding(range(4, 7)), {}

    def note(done, total, values):
        before[done] = [p.detach().clone() for p in task.module.parameters()]

    history = run_with_skips(task, 3, progress=note)
    assert history[-1]["skipped"] == pytest.approx(3 / STEPS)
    for done in range(1, STEPS + 1):
        same_weights = all(torch.equal(a, b) for a, b in zip(before[done], before[done - 1], strict=True))
        assert same_weights == (done - 1 in task.bad)


def test_too_many_such_steps_in_a_row_end_the_run_by_name():
    with pytest.raises(UsageError, match=r"diverged at step 7: the gradients of 4 steps in a row are not finite"):
        run_with_skips(Exploding(range(4, 8)), 3)
    run_with_skips(Exploding([1, 2, 3, 5, 6, 7]), 3)


def test_a_run_of_such_steps_is_counted_on_over_an_interruption(tmp_path):
    checkpoint = Checkpoint(tmp_path / "out", "run", seconds=1e9)
    checkpoint.claim()
    asked = iter(range(100))
    with pytest.raises(Stopped):
        run_with_skips(Exploding(range(4, 8)), 3, checkpoint, should_stop=lambda: next(asked) == 6)
    with pytest.raises(UsageError, match="4 steps in a row"):
        run_with_skips(Exploding(range(4, 8)), 3, checkpoint)
