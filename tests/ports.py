"""Ports for servers that tests start: free until then, whoever else takes ports."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A loopback port where nobody listens yet; connections to it are refused.

    A socket stays bound to it until this process ends. It never listens, so that a server (which sets SO_REUSEADDR, as
    all do) binds beside it; and the kernel gives the port to nobody who asks for any port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.detach()
    return port
