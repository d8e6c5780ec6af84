from math import cos, pi

import pytest

from xseg.training.schedule import cosine, make_schedule, poly, step_count


def test_poly_is_the_published_power_of_the_remaining_share():
    # lr = lr0 (1 - step / max_step)^0.9
    assert [poly(step, 100) for step in (0, 1, 50, 99)] == pytest.approx([1.0, 0.99**0.9, 0.5**0.9, 0.01**0.9])
    assert poly(73, 100, power=0) == 1.0
    assert poly(73, 100, power=2) == pytest.approx(0.27**2)


def test_cosine_falls_from_one_to_nearly_zero():
    assert [cosine(step, 10) for step in range(10)] == pytest.approx([(1 + cos(pi * k / 10)) / 2 for k in range(10)])


@pytest.mark.parametrize("schedule", [poly, cosine])
def test_the_warm_up_rises_linearly_and_the_rest_starts_at_one(schedule):
    assert [schedule(step, 10, warmup=4) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    after = [schedule(step, 10, warmup=4) for step in range(4, 10)]
    assert after == pytest.approx([schedule(step, 6) for step in range(6)])


@pytest.mark.parametrize("schedule", [poly, cosine])
def test_a_step_beyond_the_end_is_an_error(schedule):
    with pytest.raises(ValueError, match=r"0\.\.9"):
        schedule(10, 10)


@pytest.mark.parametrize(("shape", "expected"), [("poly", (1 - 3 / 9) ** 2), ("cosine", (1 + cos(pi / 3)) / 2)])
def test_a_schedule_by_name_is_the_function_with_its_warmup_as_a_share(shape, expected):
    found = make_schedule(shape, 10, power=2, warmup=0.1)
    assert found(0) == 1.0
    assert found(4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "steps"), [(2, 12, 6, 4), (1, 13, 6, 3), (0.5, 13, 6, 2), (0.01, 3, 8, 1)]
)
def test_the_steps_of_a_run_show_every_image_as_often_as_asked(epochs, images, batch, steps):
    assert step_count(epochs, images, batch) == steps
