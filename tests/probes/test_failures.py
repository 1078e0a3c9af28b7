from __future__ import annotations

import errno
import socket
import ssl

import httpcore
import httpx
import pytest

from probes.canary.failures import FAILURES, outcome_of_failure
from probes.messages import Family, Outcome

OUTCOMES = {
    "TimeoutException": Outcome.TIMEOUT,
    "ConnectTimeout": Outcome.TIMEOUT,
    "ReadTimeout": Outcome.TIMEOUT,
    "WriteTimeout": Outcome.TIMEOUT,
    "PoolTimeout": Outcome.TIMEOUT,
    "NetworkError": Outcome.CONNECTION_LOST,
    "ReadError": Outcome.CONNECTION_LOST,
    "WriteError": Outcome.CONNECTION_LOST,
    "ConnectionNotAvailable": Outcome.CONNECTION_LOST,
    "ConnectError": Outcome.UNREACHABLE,
    "ProxyError": Outcome.UNREACHABLE,
    "UnsupportedProtocol": Outcome.UNREACHABLE,
    "ProtocolError": Outcome.PROTOCOL_ERROR,
    "LocalProtocolError": Outcome.PROTOCOL_ERROR,
    "RemoteProtocolError": Outcome.PROTOCOL_ERROR,
}


def exception_names() -> list[str]:
    found = {name: getattr(httpcore, name) for name in httpcore.__all__}
    return sorted(n for n, v in found.items() if isinstance(v, type) and issubclass(v, Exception))


@pytest.mark.parametrize("name", exception_names())
def test_every_exception_of_the_library_has_an_outcome(name: str) -> None:
    """A new class in a new version of httpcore fails here until somebody has decided what it means."""
    error = getattr(httpcore, name)("x")
    assert isinstance(error, FAILURES)
    outcome, detail = outcome_of_failure(error)
    assert outcome is OUTCOMES[name]
    assert outcome.family is Family.UNAVAILABLE
    assert detail


@pytest.mark.parametrize(
    ("cause", "outcome"),
    [
        (ConnectionRefusedError(), Outcome.REFUSED),
        (ConnectionResetError(), Outcome.CONNECTION_LOST),
        (socket.gaierror(socket.EAI_NONAME, "not known"), Outcome.UNREACHABLE),
        (OSError(errno.EHOSTUNREACH, "no route"), Outcome.UNREACHABLE),
        (ssl.SSLError(1, "wrong version"), Outcome.TLS_FAILED),
        (ssl.SSLCertVerificationError(1, "self-signed"), Outcome.TLS_FAILED),
        (ValueError("new"), Outcome.UNREACHABLE),
    ],
    ids=["refused", "reset", "no_name", "no_route", "tls", "certificate", "unknown"],
)
def test_what_lies_under_a_failed_connect_decides(cause: Exception, outcome: Outcome) -> None:
    """The library wraps it twice."""
    middle = RuntimeError("anyio")
    middle.__cause__ = cause
    error = httpcore.ConnectError("x")
    error.__cause__ = middle
    assert outcome_of_failure(error)[0] is outcome


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(), UnicodeError("idna"), httpx.InvalidURL("x")],
    ids=["os_error", "host_name", "address"],
)
def test_what_the_library_lets_through_has_an_outcome_too(error: Exception) -> None:
    """It maps its own errors only."""
    assert isinstance(error, FAILURES)
    assert outcome_of_failure(error)[0].family is Family.UNAVAILABLE
