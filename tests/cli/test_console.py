import os
import pty
import time

import pytest

from xseg.cli import console
from xseg.cli.console import ConsoleReporter
from xseg.errors import BadInput, UsageError


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_log_gets_a_line_every_thirty_seconds_and_no_more(clock, capsys):
    reporter = ConsoleReporter()
    reporter.start("explain", 200)
    for _ in range(100):
        clock(1)
        reporter.advance(1, "mIoU 0.4")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "explain 30/200 15%, 1.0/s, eta 0:02:50, mIoU 0.4",
        "explain 60/200 30%, 1.0/s, eta 0:02:20, mIoU 0.4",
        "explain 90/200 45%, 1.0/s, eta 0:01:50, mIoU 0.4",
    ]


def test_what_an_earlier_run_did_is_told_and_is_no_speed(clock, capsys):
    reporter = ConsoleReporter()
    reporter.start("crf", 1000, 900)
    clock(50)
    reporter.advance(50)
    assert capsys.readouterr().err.splitlines() == [
        "crf: 900 of 1000 are done already, going on",
        "crf 950/1000 95%, 1.0/s, eta 0:00:50",
    ]


@pytest.mark.parametrize(("mode", "verbosity"), [("never", 0), ("auto", -1)])
def test_who_wants_no_progress_gets_none(clock, capsys, mode, verbosity):
    reporter = ConsoleReporter(mode, verbosity)
    reporter.start("crf", 10)
    clock(100)
    reporter.advance(5)
    reporter.detail("more")
    assert capsys.readouterr().err == ""


def test_details_are_for_those_who_ask(capsys):
    ConsoleReporter(verbosity=1).detail("more")
    assert capsys.readouterr().err == "more\n"


def test_an_unknown_mode_is_told():
    with pytest.raises(UsageError, match="auto, always or never"):
        ConsoleReporter("sometimes")


def test_names_from_files_cannot_steer_the_terminal(capsys):
    ConsoleReporter().note("failed: \x1b[2Jevil\r\x07: gone")
    console.tell_error(BadInput("class '\x1b]0;title\x07' is unknown", "look at \x9b31m"))
    told = capsys.readouterr().err
    assert told == "failed: ?[2Jevil??: gone\nerror: class '?]0;title?' is unknown\nhint: look at ?31m\n"


def test_a_terminal_gets_a_bar_that_leaves_no_trace_behind_the_notes(monkeypatch):
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        reporter = ConsoleReporter()
        reporter.start("explain", 4, 1)
        reporter.advance(1, "mIoU [0.4]")
        reporter.note("failed: a: [bold]gone")
        time.sleep(0.3)
        reporter.close()
        terminal.flush()
        shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "\x1b[" in shown
    assert "2/4" in shown
    assert "mIoU [0.4]" in shown
    assert "failed: a: [bold]gone" in shown
