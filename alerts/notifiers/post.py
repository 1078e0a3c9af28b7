"""One POST to a receiver, and what its answer means for the next attempt.

Each has a connection of its own and one deadline for all of it: a receiver that sends a byte a second never meets the
HTTP library's time-outs, which are for each read. Only the name lookup is out of its reach.

A bare transport instead of a client: a client follows redirects and ambient proxies when asked, and writes each URL to
the log; a webhook's URL is a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any

import httpx

from alerts.notifiers.delivery import DeliveryError
from probes.canary.deadline import SocketDeadline

MAX_ANSWER_BYTES = 1024  # an error code is all that is read of an answer
TEMPORARY_4XX = frozenset({408, 425, 429})


def post(
    transport: httpx.BaseTransport,
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    now: Callable[[], float],
    hint: Callable[[int, str], str] = lambda _status, _code: "",
) -> None:
    """POST a JSON body. Raises DeliveryError unless the answer is 2xx.

    timeout_s: for the whole of it. Time-outs, failed connections, 408, 425, 429 and 5xx are temporary; redirects and
    every other 4xx are permanent.
    hint: what a person can do about a status and the receiver's one-word code (empty when its answer holds none).
    """
    deadline = SocketDeadline(timeout_s=timeout_s, monotonic=monotonic)
    try:
        request = httpx.Request(
            "POST",
            url,
            content=body,
            headers={
                "Content-Type": "application/json",
                "User-Agent": "inference-watchdog",
                "Connection": "close",  # a connection kept from before would not be announced to the trace
                **headers,
            },
            extensions={"timeout": httpx.Timeout(timeout_s).as_dict(), "trace": _watch(deadline)},
        )
        deadline.begin()
        response = transport.handle_request(request)
        try:
            status, code = response.status_code, _read_code(response)
        finally:
            response.close()
    except httpx.UnsupportedProtocol:
        raise DeliveryError("the URL is neither http:// nor https://", permanent=True) from None
    except (httpx.InvalidURL, UnicodeError):
        raise DeliveryError("the URL is not valid", permanent=True) from None
    except httpx.TransportError as error:
        if isinstance(error, httpx.ConnectTimeout):
            raise DeliveryError(f"no connection within {timeout_s:g} s", permanent=False) from None
        if deadline.end() or isinstance(error, httpx.TimeoutException):
            raise DeliveryError(f"no complete answer within {timeout_s:g} s", permanent=False) from None
        # The error's name only: its text may hold the URL. `from None` keeps it out of tracebacks, too.
        raise DeliveryError(f"connection failed ({type(error).__name__})", permanent=False) from None
    finally:
        deadline.close()
    if 200 <= status < 300:
        return
    said = f"answered {status}" + (f" {code}" if code else "")
    if 300 <= status < 400:
        raise DeliveryError(f"{said}: a redirect is not followed; configure the final URL", permanent=True)
    advice = hint(status, code)
    temporary = status >= 500 or status in TEMPORARY_4XX
    raise DeliveryError(
        f"{said}: {advice}" if advice else said,
        permanent=not temporary,
        retry_after_s=parse_retry_after(response.headers.get("Retry-After"), now=now()) if temporary else None,
    )


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds to wait from a Retry-After header: a number, or an HTTP date (RFC 9110, 10.2.3).

    None when it is missing or unreadable; a date in the past is 0.
    """
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}\s*", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)


def _read_code(response: httpx.Response) -> str:
    """The answer when it is one lower-case word, as Slack's error codes are; anything else could echo a secret.

    The status is what counts, so a body that breaks off or goes on for too long is simply not read on.
    """
    read = b""
    try:
        for chunk in response.iter_raw():
            read += chunk
            if len(read) > MAX_ANSWER_BYTES:
                break
    except httpx.TransportError:
        return ""
    code = read.decode("ascii", errors="replace").strip()
    return code if re.fullmatch(r"[a-z_]{2,60}", code) else ""


def _watch(deadline: SocketDeadline) -> Callable[[str, Mapping[str, Any]], None]:
    """Shows the deadline the socket as soon as there is one. Events: https://www.encode.io/httpcore/extensions/#trace"""

    def trace(event: str, info: Mapping[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            deadline.attach(info["return_value"].get_extra_info("socket"))

    return trace
