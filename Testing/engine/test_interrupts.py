"""Ctrl+C that waits for the end of code which an exception must not leave."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from diffusion_segmentation.runtime.interrupts import held_back


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_follows_at_the_end() -> None:
    finished = False
    with pytest.raises(KeyboardInterrupt), held_back() as pressed:
        assert not pressed()
        press()
        finished = pressed()
    assert finished and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_exception_of_the_context_comes_first() -> None:
    with pytest.raises(ValueError, match="mine"), held_back():
        press()
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_other_threads_and_ignored_signals_change_nothing(handler: object) -> None:
    found: list[object] = []

    def enter() -> None:
        with held_back() as pressed:
            found.extend([signal.getsignal(signal.SIGINT), pressed()])

    before = signal.signal(signal.SIGINT, handler)
    try:
        if handler is signal.SIG_IGN:
            enter()
        else:
            thread = threading.Thread(target=enter)
            thread.start()
            thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [handler, False]
