import threading
import time

import pytest

from xseg.training.prefetch import prefetch


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_whatever_the_workers(workers):
    def load(sample):
        time.sleep(0.002 * (sample % 3))
        return sample * 10

    found = list(prefetch(lambda step: range(step, step + 3), load, range(2, 9), workers=workers))
    assert found == [[step * 10, step * 10 + 10, step * 10 + 20] for step in range(2, 9)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_where_its_batch_is_asked_for(workers):
    def load(sample):
        if sample == 2:
            raise OSError("sample 2")
        return sample

    batches = prefetch(lambda step: [step], load, range(5), workers=workers)
    assert [next(batches), next(batches)] == [[0], [1]]
    with pytest.raises(OSError, match="sample 2"):
        next(batches)


def test_no_more_than_asked_for_is_prepared_ahead_and_threads_end():
    started = []
    batches = prefetch(lambda step: [step], started.append, range(100), workers=2, ahead=2)
    next(batches)
    time.sleep(0.05)
    assert len(started) <= 3
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("xseg-load")]
