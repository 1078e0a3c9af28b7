"""Asks several sockets one question each, under one deadline: one that hangs costs the others nothing."""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


class CallFault(StrEnum):
    """Why there is no answer."""

    ABSENT = "absent"
    FORBIDDEN = "forbidden"
    SILENT = "silent"
    STRANGER = "stranger"
    TOO_LONG = "too_long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """address: a path, or (host, port). admit: whether this is whom we meant, asked before anything is sent."""

    address: str | tuple[str, int]
    question: bytes
    admit: Callable[[socket.socket], bool] = lambda _: True


@dataclass(slots=True, kw_only=True)
class _Line:
    """One connection: what is still to be sent, and what came so far."""

    call: Call
    socket: socket.socket
    left: bytes
    came: bytearray
    admitted: bool = False


def ask_all(
    calls: Mapping[Key, Call], *, timeout_s: float, max_bytes: int, monotonic: Callable[[], float]
) -> dict[Key, bytes | CallFault]:
    """All that each called one sent until it closed the connection, or why nothing usable came. Never raises.

    timeout_s: for all calls together. FORBIDDEN: the connection is not allowed, or is closed without a word. STRANGER:
    `admit` says no. SILENT: no end within the time, or no connection because nobody takes them any more.
    """
    answers: dict[Key, bytes | CallFault] = {}
    until = monotonic() + timeout_s
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for key, call in calls.items():
            opened = _open(call, stack)
            if isinstance(opened, CallFault):
                answers[key] = opened
            else:
                selector.register(opened.socket, selectors.EVENT_WRITE, (key, opened))
        while selector.get_map() and (left_s := until - monotonic()) > 0:
            for ready, _ in selector.select(left_s):
                key, line = ready.data
                came = _go_on(line, max_bytes)
                if came is not None:
                    answers[key] = came
                    selector.unregister(line.socket)
                elif not line.left:
                    selector.modify(line.socket, selectors.EVENT_READ, ready.data)
    return {key: answers.get(key, CallFault.SILENT) for key in calls}


def _open(call: Call, stack: ExitStack) -> _Line | CallFault:
    family = socket.AF_UNIX if isinstance(call.address, str) else socket.AF_INET
    line = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    line.settimeout(0)
    try:
        line.connect(call.address)
    except BlockingIOError as error:
        if error.errno == errno.EAGAIN:  # of a Unix socket: its queue is full, for nobody takes from it
            return CallFault.SILENT
    except PermissionError:
        return CallFault.FORBIDDEN
    except OSError:
        return CallFault.ABSENT
    return _Line(call=call, socket=line, left=call.question, came=bytearray())


def _go_on(line: _Line, max_bytes: int) -> bytes | CallFault | None:
    """Send or receive what can be at once; None while it is not over."""
    if not line.admitted:
        if line.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
            return CallFault.ABSENT
        if not line.call.admit(line.socket):
            return CallFault.STRANGER
        line.admitted = True
    try:
        if line.left:
            line.left = line.left[line.socket.send(line.left) :]
            return None
        data = line.socket.recv(65_536)
    except BlockingIOError:
        return None
    except OSError:  # it closed the connection; what it said before that counts
        data = _last_words(line.socket) if line.left else b""
        line.left = b""
    line.came += data
    if len(line.came) > max_bytes:
        return CallFault.TOO_LONG
    return None if data else bytes(line.came) or CallFault.FORBIDDEN


def _last_words(line: socket.socket) -> bytes:
    with suppress(OSError):
        return line.recv(65_536)
    return b""
