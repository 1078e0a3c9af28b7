"""The server under the web side, on a real socket: slow, silent and countless clients hold nobody up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
import uvicorn
from builders import wait_until
from site_stage import Site

from watchdog.web.server import MAX_HEAD_BYTES, new_server

HALF_A_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


@contextmanager
def serving(site: Site, **limits: float) -> Iterator[tuple[uvicorn.Server, int]]:
    """The server and its port."""
    server = new_server(site.app, **limits)  # type: ignore[arg-type]  # a float and an int
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


def is_alive(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10, trust_env=False).json()["alive"] is True


def is_dropped(client: socket.socket) -> bool:
    """Whether the server has ended it (without waiting)."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def connect(stack: ExitStack, port: int, said: bytes) -> socket.socket:
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
    client.sendall(said)
    return client


@pytest.mark.parametrize("said", [b"", HALF_A_REQUEST], ids=["silent", "half"])
def test_many_waiting_connections_leave_room_for_a_new_one(site: Site, said: bytes) -> None:
    """Far more than the cap: the server keeps only that many, and whoever asks for /healthz gets it."""
    with serving(site, max_connections=20) as (server, port), ExitStack() as stack:
        clients = [connect(stack, port, said) for _ in range(200)]
        assert is_alive(port)
        wait_until(lambda: len(server.server_state.connections) <= 21, "the rest is dropped")
        assert not is_dropped(clients[-1]), "the oldest go first"
        assert is_dropped(clients[0])


def test_request_that_never_ends_is_dropped(site: Site) -> None:
    """However steadily it drips; and so is a connection on which nothing is asked."""
    with serving(site, answer_s=0.3) as (server, port), ExitStack() as stack:
        dripping, silent = connect(stack, port, HALF_A_REQUEST), connect(stack, port, b"")

        def has_ended() -> bool:
            with suppress(OSError):
                dripping.setblocking(True)
                dripping.sendall(b"x")
            return is_dropped(dripping) and is_dropped(silent)

        wait_until(has_ended, "both are dropped")
        wait_until(lambda: not server.server_state.connections, "nothing of them is kept")


def test_body_that_never_ends_is_dropped(site: Site) -> None:
    """The endpoint that reads it ends, too."""
    head = b"POST /api/v1/silences HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer t0ken-of-the-web-side\r\n"
    with serving(site, answer_s=0.3) as (server, port), ExitStack() as stack:
        client = connect(stack, port, head + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        wait_until(lambda: server.server_state.tasks, "the endpoint reads")
        wait_until(lambda: is_dropped(client) and not server.server_state.tasks, "it has ended")


def test_answer_that_nobody_reads_is_dropped(site: Site) -> None:
    """Requests one after the other and no answer read: what is buffered is thrown away with the connection."""
    asked = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with serving(site, answer_s=0.5) as (server, port), ExitStack() as stack:
        client = connect(stack, port, b"")
        client.setblocking(False)

        def is_cut_off() -> bool:
            try:
                client.send(asked * 200)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        wait_until(is_cut_off, "the server has had enough")
        wait_until(lambda: not server.server_state.connections, "nothing of it is kept")


def test_connection_in_use_lives_on(site: Site) -> None:
    """The deadline is for one answer, not for the connection: a load balancer asks on it for hours."""
    with (
        serving(site, answer_s=4.0) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        ports = set()
        for _ in range(15):
            answer = client.get("/healthz")
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
            threading.Event().wait(0.3)
        assert len(ports) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Big: " + b"x" * (40 * MAX_HEAD_BYTES) + b"\r\n\r\n",
        b"GET /" + b"x" * (40 * MAX_HEAD_BYTES) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=["big header", "big path", "many headers", "TLS", "no host", "two hosts", "negative", "two lengths", "nul"],
)
def test_what_is_no_request_is_400(site: Site, said: bytes) -> None:
    """Refused as a whole, with the connection; nothing of it is kept."""
    with serving(site) as (server, port), ExitStack() as stack:
        client = connect(stack, port, b"")
        with suppress(OSError):  # it may close before it has read all
            client.sendall(said)
        head = b""
        with suppress(OSError):
            while data := client.recv(65536):
                head += data
        assert not head or head.startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: not server.server_state.connections, "nothing of it is kept")
        assert is_alive(port)


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/readyz/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/readyz/%00"],
)
def test_no_path_leads_to_a_file(site: Site, path: str) -> None:
    """There are no files behind the routes."""
    with serving(site) as (_, port), ExitStack() as stack:
        client = connect(stack, port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        said = b""
        while data := client.recv(65536):
            said += data
        assert said.startswith(b"HTTP/1.1 404 ")
        assert b"root:" not in said
