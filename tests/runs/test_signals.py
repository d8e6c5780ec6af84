import os
import signal
import subprocess
import sys
import time

import pytest

from xseg.errors import Status
from xseg.runs.signals import stop_flag


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_sets_the_flag_and_the_former_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_flag() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.status == (Status.INTERRUPTED if number == signal.SIGINT else Status.STOPPED)
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_flag() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


CHILD = """
import time
from xseg.runs.signals import stop_flag
with stop_flag() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("stopping", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("first", "second", "status"), [("SIGTERM", "SIGTERM", 75), ("SIGINT", "SIGINT", 130)])
def test_a_second_signal_ends_the_process_at_once(first, second, status):
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(getattr(signal, first))
        assert child.stdout.readline() == "stopping\n"
        started = time.monotonic()
        child.send_signal(getattr(signal, second))
        assert child.wait(timeout=20) == status
        assert time.monotonic() - started < 10


LONG_CALL = """
import hashlib
from xseg.runs.signals import stop_flag
with stop_flag():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)  # minutes inside of C
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_second_signal_ends_a_process_that_is_deep_inside_of_a_library(name, status):
    with subprocess.Popen([sys.executable, "-c", LONG_CALL], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(getattr(signal, name))
        time.sleep(0.3)
        assert child.poll() is None
        child.send_signal(getattr(signal, name))
        assert child.wait(timeout=20) == status


WHILE_IMPORTING = """
import os, signal, sys
import xseg.__main__

class Finder:
    def find_spec(self, name, *_):
        if name == "xseg.cli":
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))

sys.meta_path.insert(0, Finder())
xseg.__main__.main()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_signal_that_comes_before_anything_is_imported_ends_with_its_status_and_no_word(name, status):
    done = subprocess.run([sys.executable, "-c", WHILE_IMPORTING, name], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_a_block_inside_a_block_shares_its_flag():
    with stop_flag() as outer:
        with stop_flag() as inner:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert inner is outer
        assert outer()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


PAST = """
import os, signal
from xseg.runs.signals import past_stopping, stop_flag
with stop_flag():
    past_stopping()
for name in ("TERM", "USR1", "USR2", "INT"):
    os.kill(os.getpid(), getattr(signal, "SIG" + name))
print("still here")
"""


def test_a_signal_after_the_end_does_not_change_the_status():
    done = subprocess.run([sys.executable, "-c", PAST], capture_output=True, text=True, check=True)
    assert done.stdout == "still here\n"
