"""From what the HTTP library raises to an outcome and one line for a person. The line never quotes the answer."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping

import httpcore
import httpx

from probes.messages import Outcome

FAILURES = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    httpcore.ConnectionNotAvailable,
    httpx.InvalidURL,
    OSError,
    UnicodeError,
)
"""What a request may raise; anything else is a mistake in the watchdog."""

# The nearest class of an exception decides; ConnectError and RemoteProtocolError are looked into first.
_BY_CLASS: Mapping[type[BaseException], tuple[Outcome, str]] = {
    httpcore.TimeoutException: (Outcome.TIMEOUT, "no complete answer in time"),
    httpcore.ConnectError: (Outcome.UNREACHABLE, "cannot connect"),
    httpcore.NetworkError: (Outcome.CONNECTION_LOST, "the connection was lost"),
    httpcore.ProxyError: (Outcome.UNREACHABLE, "a proxy failed"),
    httpcore.UnsupportedProtocol: (Outcome.UNREACHABLE, "the address is not http or https"),
    httpcore.ConnectionNotAvailable: (Outcome.CONNECTION_LOST, "the connection was lost"),
    httpcore.LocalProtocolError: (Outcome.PROTOCOL_ERROR, "our request is not valid HTTP (method or headers)"),
    httpcore.ProtocolError: (Outcome.PROTOCOL_ERROR, "the answer is not valid HTTP"),
    httpx.InvalidURL: (Outcome.UNREACHABLE, "the address is not valid"),
    UnicodeError: (Outcome.UNREACHABLE, "the host name is not valid"),
    OSError: (Outcome.CONNECTION_LOST, "the connection was lost"),
}

_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}


def outcome_of_failure(error: BaseException) -> tuple[Outcome, str]:
    """The outcome of one of `FAILURES`."""
    if isinstance(error, httpcore.RemoteProtocolError) and _is_disconnect(error):
        return Outcome.CONNECTION_LOST, "the server closed the connection before the answer was complete"
    if isinstance(error, httpcore.ConnectError):
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


def _is_disconnect(error: httpcore.RemoteProtocolError) -> bool:
    """The library has one class for "not HTTP" and "closed too early" and tells them apart only in its words."""
    return any(words in str(error) for words in ("disconnected without sending", "peer closed connection"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    here: BaseException | None = error
    while here is not None:
        yield here
        here = here.__cause__ or here.__context__
