"""One conversation: a question is read within limits, answered, and the connection is closed.

Over a Unix socket a question is one line. Over HTTP it is the body of a POST with `Authorization: Bearer TOKEN`; only
as much of HTTP/1.1 is understood as our own client speaks.
"""

from __future__ import annotations

import socket
import time
from typing import Callable, Dict, Optional, Tuple

from watchdog_agent import agent_wire, wire
from watchdog_agent.agent_wire import Answer, Question, Refused

TALK_S = 2.0  # for a whole question: who asks has it ready
SEND_S = 2.0
MAX_HEAD_BYTES = 8 * 1024

_STATUS = {200: "OK", 400: "Bad Request", 401: "Unauthorized"}


class _Mistake(Exception):  # noqa: N818 - it is the caller's
    """A question that cannot be answered; the status is HTTP's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def talk(caller: socket.socket, *, token: Optional[bytes], answer: Callable[[Question], Answer]) -> None:
    """Serve one caller; closes the connection. Nothing a caller does raises; OSError of our own side may."""
    with caller:
        try:
            status, said = 200, answer(_listen(caller, token))
        except (_Mistake, wire.WireError) as mistake:
            status, said = getattr(mistake, "status", 400), Refused(why=str(mistake)[:200])
        except (OSError, EOFError):
            return
        except Exception as error:  # noqa: BLE001 - an answer that fails must not end the conversations
            status, said = 200, Refused(why=f"{type(error).__name__}: {error}"[:200])
        try:
            line = agent_wire.encode_answer(said)
        except wire.WireError as error:
            line = agent_wire.encode_answer(Refused(why=str(error)[:200]))
        if token is not None:
            head = f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: application/json\r\n"
            line = f"{head}Content-Length: {len(line)}\r\nConnection: close\r\n\r\n".encode() + line
        caller.settimeout(SEND_S)
        try:
            caller.sendall(line)
        except OSError:
            return


def _listen(caller: socket.socket, token: Optional[bytes]) -> Question:
    until = time.monotonic() + TALK_S
    if token is None:
        line, _ = _read_to(caller, b"\n", agent_wire.MAX_QUESTION_BYTES, until)
        return agent_wire.decode_question(line)
    head, rest = _read_to(caller, b"\r\n\r\n", MAX_HEAD_BYTES, until)
    method, headers = _parse(head)
    if not _same(headers.get(b"authorization", b""), b"Bearer " + token):
        raise _Mistake(401, "the token is needed")
    length = headers.get(b"content-length", b"")
    if method != b"POST" or not length.isdigit() or len(length) > 5 or int(length) > agent_wire.MAX_QUESTION_BYTES:
        raise _Mistake(400, f"a POST with a body of at most {agent_wire.MAX_QUESTION_BYTES} bytes is needed")
    while len(rest) < int(length):
        rest += _receive(caller, until)
    return agent_wire.decode_question(rest[: int(length)])


def _parse(head: bytes) -> Tuple[bytes, Dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    return first.split(b" ")[0], {name.strip().lower(): value.strip() for name, _, value in pairs}


def _same(given: bytes, wanted: bytes) -> bool:
    """In a time that does not tell how much of it was right."""
    import hmac  # here: it loads OpenSSL's hashes, which a Unix socket does not need

    return hmac.compare_digest(given, wanted)


def _read_to(caller: socket.socket, end: bytes, limit: int, until: float) -> Tuple[bytes, bytes]:
    """What comes before `end`, and what came after it. Raises _Mistake beyond the limit, OSError and EOFError."""
    begun = b""
    while end not in begun:
        if len(begun) > limit:
            raise _Mistake(400, f"longer than {limit} bytes")
        begun += _receive(caller, until)
    before, _, after = begun.partition(end)
    if len(before) > limit:
        raise _Mistake(400, f"longer than {limit} bytes")
    return before, after


def _receive(caller: socket.socket, until: float) -> bytes:
    caller.settimeout(max(0.001, until - time.monotonic()))
    data = caller.recv(4096)
    if not data:
        raise EOFError
    return data
