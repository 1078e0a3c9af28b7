"""From what the HTTP library raises to an outcome and one line for a person. The line never quotes the answer."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping

import httpx

from probes.messages import Outcome

FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError, OSError, UnicodeError)
"""What a request may raise; anything else is a mistake in the watchdog."""

# The nearest class of an exception decides; ConnectError and RemoteProtocolError are looked into first.
_BY_CLASS: Mapping[type[BaseException], tuple[Outcome, str]] = {
    httpx.TimeoutException: (Outcome.TIMEOUT, "no complete answer in time"),
    httpx.ConnectError: (Outcome.UNREACHABLE, "cannot connect"),
    httpx.NetworkError: (Outcome.CONNECTION_LOST, "the connection was lost"),
    httpx.ProxyError: (Outcome.UNREACHABLE, "a proxy failed"),
    httpx.UnsupportedProtocol: (Outcome.UNREACHABLE, "the address is not http or https"),
    httpx.InvalidURL: (Outcome.UNREACHABLE, "the address is not valid"),
    UnicodeError: (Outcome.UNREACHABLE, "the host name is not valid"),
    httpx.LocalProtocolError: (Outcome.PROTOCOL_ERROR, "our request is not valid HTTP (method or headers)"),
    httpx.HTTPError: (Outcome.PROTOCOL_ERROR, "the answer is not valid HTTP"),
    httpx.StreamError: (Outcome.PROTOCOL_ERROR, "the answer could not be read"),
    httpx.CookieConflict: (Outcome.PROTOCOL_ERROR, "the answer sets conflicting cookies"),
    OSError: (Outcome.CONNECTION_LOST, "the connection was lost"),
}

_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}


def outcome_of_failure(error: BaseException) -> tuple[Outcome, str]:
    """The outcome of one of `FAILURES`."""
    if isinstance(error, httpx.RemoteProtocolError) and _is_disconnect(error):
        return Outcome.CONNECTION_LOST, "the server closed the connection before the answer was complete"
    if isinstance(error, httpx.ConnectError):
        for cause in _causes(error):
            named = _outcome_of_connect(cause)
            if named is not None:
                return named
    return next(_BY_CLASS[c] for c in type(error).__mro__ if c in _BY_CLASS)


def _outcome_of_connect(cause: BaseException) -> tuple[Outcome, str] | None:
    match cause:
        case ConnectionRefusedError():
            found = Outcome.REFUSED, "connection refused"
        case ssl.SSLCertVerificationError():
            found = Outcome.TLS_FAILED, f"certificate not accepted: {getattr(cause, 'verify_message', '')}"
        case ssl.SSLError():
            found = Outcome.TLS_FAILED, f"TLS failed: {getattr(cause, 'reason', None) or 'the connection ended'}"
        case socket.gaierror():
            found = Outcome.UNREACHABLE, f"the host name was not found: {cause.strerror}"
        case ConnectionError():
            found = Outcome.CONNECTION_LOST, "the connection was lost while it was set up"
        case OSError() if cause.errno in _NO_ROUTE:
            found = Outcome.UNREACHABLE, f"no route: {cause.strerror}"
        case _:
            return None
    return found


def _is_disconnect(error: httpx.RemoteProtocolError) -> bool:
    """The library has one class for "not HTTP" and "closed too early" and tells them apart only in its words."""
    return any(words in str(error) for words in ("disconnected without sending", "peer closed connection"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    here: BaseException | None = error
    while here is not None:
        yield here
        here = here.__cause__ or here.__context__
