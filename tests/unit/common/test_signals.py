import os
import signal
import threading

import pytest

from fgit.common.errors import Stopped
from fgit.common.signals import Sigterm, ending_on_sigterm


def test_sigterm_is_noted():
    former = signal.getsignal(signal.SIGTERM)
    with Sigterm() as sigterm:
        assert not sigterm.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert sigterm.requested
    assert signal.getsignal(signal.SIGTERM) is former


def test_sigterm_elsewhere_than_in_the_main_thread():
    former, seen = signal.getsignal(signal.SIGTERM), []

    def inside():
        with Sigterm() as sigterm:
            seen.append((sigterm.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(False, former)]


def test_sigterm_ends_the_block():
    former, left = signal.getsignal(signal.SIGTERM), []

    def block():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            left.append(True)  # where files are removed and locks given back

    with pytest.raises(Stopped) as caught, ending_on_sigterm():
        block()
    assert (caught.value.code, caught.value.where, left) == (143, None, [True])
    assert signal.getsignal(signal.SIGTERM) is former


def test_sigterm_is_noted_within_a_block_that_it_would_end():
    with ending_on_sigterm():
        with Sigterm() as sigterm:
            os.kill(os.getpid(), signal.SIGTERM)
        assert sigterm.requested


def test_sigterm_to_a_fork():
    """It ends as if nobody had asked: a pool must not take Stopped for a task's error."""
    with ending_on_sigterm():
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_ending_elsewhere_than_in_the_main_thread():
    former, seen = signal.getsignal(signal.SIGTERM), []

    def inside():
        with ending_on_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [former]
