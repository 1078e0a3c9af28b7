"""Servers that drip, flood, break off, answer garbage, or never answer: each is a result, and nobody waits for it."""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemon_stage import wait_until
from fault_server import FaultServer
from fault_stage import FaultStage

pytestmark = pytest.mark.slow

MIB = 2**20
MAX_GROWTH_BYTES = 64 * MIB  # an answer is read up to 8 MiB; a few at once, and what the allocator keeps of them

# name: (how it goes wrong, the outcome, what the evidence says)
FAULTS = {
    "drip": ("/drip_slowly", "timeout", "the answer began and did not end"),
    "drip-head": ("/drip_headers", "timeout", "no answer began"),
    "flood": ("/endless", "answer_too_large", "more than "),
    "flood-head": ("/endless_headers", "protocol_error", "not valid HTTP"),
    "break-off": ("/half", "connection_lost", "closed the connection before the answer was complete"),
    "vanish": ("/vanish", "connection_lost", "closed the connection before the answer was complete"),
    "half-close": ("/half_close", "connection_lost", "closed the connection before the answer was complete"),
    "reset": ("/reset", "connection_lost", "the connection was lost"),
    "hang": ("/hang", "timeout", "no answer began"),
    "garbage": ("/not_http", "protocol_error", "not valid HTTP"),
    "garbage-body": ("/garbage", "not_json", "not JSON"),
    "unpacks-huge": ("/bomb", "answer_too_large", "once unpacked"),
    "not-accepting": ("deaf", "timeout", "not connected"),
    "tls-garbage": ("tls garbage", "tls_failed", "TLS failed"),
    "tls-silent": ("tls silent", "timeout", "not connected"),
}


@contextmanager
def deaf() -> Iterator[str]:
    """Listens, and its queue of connections that nobody accepts is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        for _ in range(4):
            filler = stack.enter_context(closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/predict"


@contextmanager
def talking_tls(first_words: bytes) -> Iterator[str]:
    """Answers the handshake with this, and then says nothing."""
    closing_down = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(first_words)
            closing_down.wait(60)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that hang up are what this server is for."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}/predict"
        closing_down.set()
        server.shutdown()


def target(name: str, url: str, *, interval: str = "2s", timeout: str = "1s") -> str:
    return f"""
[[target]]
name = "{name}"
device = "cpu"
[[target.canary]]
url = "{url}"
json = [1]
interval = "{interval}"
timeout = "{timeout}"
max_busy = 1.0
burst = 2
[target.canary.expect]
json_path = "numbers"
"""


@dataclass(frozen=True)
class Zoo:
    """All faults at once beside two servers that are well."""

    stage: FaultStage
    daemon: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    stage = FaultStage(tmp_path_factory.mktemp("zoo"))
    with ExitStack() as stack:
        stack.callback(stage.close)
        server = stack.enter_context(FaultServer())
        urls = {
            "deaf": stack.enter_context(deaf()),
            "tls garbage": stack.enter_context(talking_tls(os.urandom(4096))),
            "tls silent": stack.enter_context(talking_tls(b"")),
        }
        sick = [
            target(name, urls.get(way) or server.url(way), timeout="1s" if outcome == "timeout" else "5s")
            for name, (way, outcome, _) in FAULTS.items()
        ]
        stage.write_config(*sick, stage.beats())
        yield Zoo(stage, stage.start_daemon())


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_a_result_with_a_name(zoo: Zoo, name: str) -> None:
    """An outcome in the metrics, and nothing else; words for a person in the verdict."""
    _, outcome, words = FAULTS[name]

    def outcomes() -> dict[str, float]:
        return {
            dict(labels)["outcome"]: number
            for (metric, labels), number in zoo.stage.metrics().items()
            if metric == "watchdog_canary_requests_total" and ("target", name) in labels and number
        }

    wait_until(lambda: sum(outcomes().values()) >= 2, f"{name} was asked twice")
    assert outcomes().keys() == {outcome}
    answer = zoo.stage.get(f"/api/v1/verdicts?target={name}")
    assert answer is not None
    assert words in answer.text


def test_all_of_them_at_once_delay_nobody_and_fill_no_memory(zoo: Zoo) -> None:
    """The two that are well keep their rhythm while the others flood, hang and drip; memory stays where it was."""
    stage = zoo.stage
    wait_until(lambda: stage.count("target = 'flood'") >= 3, "the first floods")
    before = stage.resident_bytes(zoo.daemon)
    with stage.keeping_time():
        stage.wait_for_bursts(3, "target = 'flood'")
    assert stage.resident_bytes(zoo.daemon) - before < MAX_GROWTH_BYTES
    assert stage.count("target like 'beat%' and not all_good") == 0
    assert stage.health()["alive"]
    assert stage.value("watchdog_internal_errors_total", where="probe") == 0


def test_it_still_ends_in_time(zoo: Zoo) -> None:
    """SIGTERM in the middle of all of it."""
    assert zoo.stage.end(zoo.daemon) == 0
    assert "stopped" in zoo.stage.log_of(zoo.daemon)


def test_ten_that_hang_at_once_delay_none_of_ninety(tmp_path: Path) -> None:
    """They begin to hang at the same moment; the ninety keep their schedule, and the ten are asked on."""
    stage = FaultStage(tmp_path)
    with closing(stage):
        well, sick = stage.start_server("well"), stage.start_server("sick")
        urls = [f"http://127.0.0.1:{sick if number < 10 else well}/predict" for number in range(100)]
        stage.write_config(*(target(f"t{n:02}", u, interval="3s", timeout="1500ms") for n, u in enumerate(urls)))
        daemon = stage.start_daemon()
        wait_until(lambda: stage.count() >= 100, "each was asked once")
        stage.break_server(sick, "hang")
        hanging = "target < 't10' and not any_good"
        with stage.keeping_time():
            stage.wait_for_bursts(150, "target >= 't10' and all_good")
        names = {name for (name,) in stage.rows(f"select distinct target from bursts where {hanging}")}
        assert len(names) == 10
        wait_until(lambda: stage.count(hanging) >= 20, "they are asked on")
        most, least = stage.rows(
            "select max(n), min(n) from (select count(*) as n from bursts where target >= 't10' group by target)"
        )[0]
        assert most - least <= 2, "none of the ninety was left out"
        assert stage.value("watchdog_internal_errors_total", where="probe_missed") == 0
        assert stage.end(daemon) == 0
