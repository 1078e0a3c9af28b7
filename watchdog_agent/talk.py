"""One conversation: a question is read within limits, answered, and the connection is closed.

Over a Unix socket a question is one line. Over HTTP it is the body of a POST with `Authorization: Bearer TOKEN`; only
as much of HTTP/1.1 is understood as our own client speaks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Callable, Dict, Optional, Tuple

from watchdog_agent import agent_wire, wire
from watchdog_agent.agent_wire import Answer, Question, Refused
from watchdog_agent.door import inode_of

TALK_S = 2.0  # for a whole question: who asks has it ready
SEND_S = 2.0
MAX_HEAD_BYTES = 8 * 1024

_STATUS = {200: "OK", 400: "Bad Request", 401: "Unauthorized"}


class _Mistake(Exception):  # noqa: N818 - it is the caller's
    """A question that cannot be answered; the status is HTTP's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Talk:
    """One caller, who is listened to without waiting: one that is slow keeps no other from being answered."""

    def __init__(self, caller: socket.socket, *, token: Optional[bytes]) -> None:
        self._caller = caller
        self._token = token
        self._opened = inode_of(os.fstat(caller.fileno()))
        self._until = time.monotonic() + TALK_S
        self._came = b""
        caller.settimeout(0)

    def fileno(self) -> int:
        return self._caller.fileno()

    def go_on(self, answer: Callable[[Question], Answer]) -> bool:
        """Read what came, and answer when that is a whole question. False: the conversation is over.

        Nothing a caller does raises.
        """
        with contextlib.suppress(OSError):
            if self._is_ours() and self._listen(answer):
                return True
        self.end()
        return False

    def end(self) -> None:
        """Let go of it; in a forked child it goes on in the parent."""
        if self._is_ours():
            self._caller.close()
        else:
            self._caller.detach()

    def _listen(self, answer: Callable[[Question], Answer]) -> bool:
        try:
            came = self._caller.recv(4096)
        except BlockingIOError:
            return time.monotonic() < self._until
        self._came += came
        try:
            question = _question_in(self._came, self._token)
            if question is None:
                return bool(came) and time.monotonic() < self._until
            status, said = 200, answer(question)
        except (_Mistake, wire.WireError) as mistake:
            status, said = getattr(mistake, "status", 400), Refused(why=str(mistake)[:200])
        except OSError:  # of our own side
            raise
        except Exception as error:  # noqa: BLE001 - an answer that fails must not end the conversations
            status, said = 200, Refused(why=f"{type(error).__name__}: {error}"[:200])
        self._say(status, said)
        return False

    def _say(self, status: int, said: Answer) -> None:
        try:
            line = agent_wire.encode_answer(said)
        except wire.WireError as error:
            line = agent_wire.encode_answer(Refused(why=str(error)[:200]))
        if self._token is not None:
            head = f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: application/json\r\n"
            line = f"{head}Content-Length: {len(line)}\r\nConnection: close\r\n\r\n".encode() + line
        self._caller.settimeout(SEND_S)
        self._caller.sendall(line)
        self._caller.shutdown(socket.SHUT_WR)  # a child that was forked meanwhile holds the connection open

    def _is_ours(self) -> bool:
        try:
            return inode_of(os.fstat(self._caller.fileno())) == self._opened
        except OSError:
            return False


def _question_in(came: bytes, token: Optional[bytes]) -> Optional[Question]:
    """None while it is not whole. Raises _Mistake and wire.WireError."""
    if token is None:
        line, whole, _ = _cut(came, b"\n", agent_wire.MAX_QUESTION_BYTES)
        return agent_wire.decode_question(line) if whole else None
    head, whole, rest = _cut(came, b"\r\n\r\n", MAX_HEAD_BYTES)
    if not whole:
        return None
    method, headers = _parse(head)
    if not _same(headers.get(b"authorization", b""), b"Bearer " + token):
        raise _Mistake(401, "the token is needed")
    length = headers.get(b"content-length", b"")
    if method != b"POST" or not length.isdigit() or len(length) > 5 or int(length) > agent_wire.MAX_QUESTION_BYTES:
        raise _Mistake(400, f"a POST with a body of at most {agent_wire.MAX_QUESTION_BYTES} bytes is needed")
    return agent_wire.decode_question(rest[: int(length)]) if len(rest) >= int(length) else None


def _parse(head: bytes) -> Tuple[bytes, Dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    return first.split(b" ")[0], {name.strip().lower(): value.strip() for name, _, value in pairs}


def _same(given: bytes, wanted: bytes) -> bool:
    """In a time that does not tell how much of it was right."""
    import hmac  # here: it loads OpenSSL's hashes, which a Unix socket does not need

    return hmac.compare_digest(given, wanted)


def _cut(came: bytes, end: bytes, limit: int) -> Tuple[bytes, bytes, bytes]:
    """What comes before `end`, `end` itself if it has come, and what came after. Raises _Mistake beyond the limit."""
    before, found, after = came.partition(end)
    if len(before) > limit:
        raise _Mistake(400, f"longer than {limit} bytes")
    return before, found, after
