import pytest

from xseg.errors import BadInput
from xseg.runs.failed_images import FailedImages
from xseg.runs.reporter import Silent


def test_every_reason_is_told_at_once_and_repetitions_are_counted_at_the_end():
    reporter = Silent()
    with FailedImages(reporter) as failed:
        for image in "abc":
            failed.add(image, BadInput("no labels", "give some"))
        failed.add("d", BadInput("gone"))
        assert reporter.notes == ["failed: a: no labels; give some", "failed: d: gone"]
    assert reporter.notes[2:] == ["failed: 2 more images: no labels; give some"]
    assert (len(failed), failed.ids) == (4, set("abcd"))
    failed.tell_repeated()
    assert len(reporter.notes) == 3


def test_an_error_of_the_run_is_not_followed_by_counts():
    reporter = Silent()

    def broken():
        with FailedImages(reporter) as failed:
            failed.add("a", BadInput("gone"))
            failed.add("b", BadInput("gone"))
            raise BadInput("the run")

    with pytest.raises(BadInput, match="the run"):
        broken()
    assert len(reporter.notes) == 1
