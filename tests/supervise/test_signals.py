"""Signals end a run at a step boundary; that of a terminal that goes away, too, unless it is to be ignored."""

import os
import signal

import pytest
from model import Model

from manyhands.engine import Loop
from manyhands.plan import Plan
from manyhands.supervise import heard
from manyhands.supervise.outside import catch_signals
from manyhands.supervise.supervisor import _ENDING, _WARNING


@pytest.mark.parametrize("number", [*_ENDING, *_WARNING])
def test_a_signal_is_heard_and_ends_nothing_by_itself(number):
    loop, came = Loop(), []
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with catch_signals(loop, came.append, *_ENDING, *_WARNING):
            os.kill(os.getpid(), number)
            loop.run_once(1.0)
        assert came == [number] and signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
        loop.close()


def test_a_hangup_that_is_ignored_stays_so():
    """As `nohup` has it. Ctrl-C is heard even then: a controller that was started in the background ends runs so."""
    loop, came = Loop(), []
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        with catch_signals(loop, came.append, *_ENDING, *_WARNING):
            for number in before:
                os.kill(os.getpid(), number)
            loop.run_once(1.0)
        assert came == [signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        loop.close()


def test_after_a_warning_another_signal_does_not_end_the_run_at_once():
    at = Model(Plan()).at
    at, _ = heard.interrupted(at, "SIGUSR1", warning=True)
    assert at.ending is not None and at.ending.error == "interrupted by SIGUSR1"
    for _ in range(3):
        at, _ = heard.interrupted(at, "SIGHUP", warning=True)
    at, _ = heard.interrupted(at, "SIGTERM")
    assert at.interrupts == 1
    at, _ = heard.interrupted(at, "SIGTERM")
    assert at.interrupts == 2, "a second one that is no warning does"
