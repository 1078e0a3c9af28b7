"""What the outside tells the daemon to do: by signals, and by closing its terminal."""

from __future__ import annotations

import os
import signal
from enum import Enum

STREAMS = (0, 1, 2)  # descriptors; one that is closed is no terminal


class Order(Enum):
    """The value is the signal that gives it."""

    STOP = signal.SIGTERM
    RELOAD = signal.SIGHUP


ORDERS = {signal.SIGTERM: Order.STOP, signal.SIGINT: Order.STOP, signal.SIGHUP: Order.RELOAD}


class Orders:
    """Orders in the order of their coming.

    They go through a pipe, which the interpreter fills where the signal arrives, on whichever thread: a handler in
    Python would wait until the main thread wakes up by itself, and could not take a lock that it interrupted.
    """

    def __init__(self) -> None:
        self._out, self._in = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._in, False)
        self._terminals = [stream for stream in STREAMS if os.isatty(stream)]

    def listen(self) -> None:
        """Take signals from now on. On the main thread."""
        signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
        for number in ORDERS:
            signal.signal(number, lambda *_: None)

    def give(self, order: Order) -> None:
        """From any thread."""
        os.write(self._in, bytes([order.value]))

    def wait(self) -> Order:
        """The next order. SIGHUP from a terminal that was closed is no wish for another configuration: STOP."""
        order = ORDERS[signal.Signals(os.read(self._out, 1)[0])]
        if order is Order.RELOAD and self._terminals and not any(os.isatty(stream) for stream in self._terminals):
            self._leave_terminal()
            return Order.STOP
        return order

    def _leave_terminal(self) -> None:
        """What is still written to it goes nowhere, instead of being an error of whoever writes."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in self._terminals:
            os.dup2(nowhere, stream)
        os.close(nowhere)
