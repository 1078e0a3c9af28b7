from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from builders import leave_out
from fault_server import GOOD, FaultServer

from probes.canary.burst import CanaryPlan
from probes.canary.http import HttpCanary
from probes.expectation import Expectation
from probes.messages import Life, Outcome, Output

EMBEDDING = Expectation(json_path="data[0].embedding")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def build(url: str, *, plan: dict[str, Any] | None = None, **given: Any) -> HttpCanary:
    settings = {"interval_s": 60.0, "timeout_s": 5.0, "size": 4, "warmup": 0, "max_busy": 1.0, **(plan or {})}
    parts: dict[str, Any] = {
        "target": "toy",
        "name": "default",
        "plan": CanaryPlan(**settings),
        "expectation": EMBEDDING,
        "method": "POST",
        "url": url,
        "headers": {},
        "body": b'{"input": [1]}',
        "content_type": "application/json",
        "control_url": None,
        "workers": None,
        "now": time.time,
        "monotonic": time.monotonic,
        **given,
    }
    return HttpCanary(**parts)


def test_a_good_burst_is_measured_in_phases_over_one_connection(server: FaultServer) -> None:
    """Connecting is told apart from the answer, the first byte comes before the last, the connection is kept."""
    burst = build(server.url("/slow?s=0.02")).burst(size=4)
    assert [s.outcome for s in burst.samples] == [Outcome.GOOD] * 4
    assert [s.connect_s is None for s in burst.samples] == [False, True, True, True]
    for sample in burst.samples:
        assert sample.latency_s is not None
        assert sample.first_byte_s is not None
        assert 0.02 <= sample.first_byte_s <= sample.latency_s < 5
    assert server.connections == 1
    assert burst.output is not None
    assert (burst.output.shape, burst.output.values) == ((3,), (0.5, -1.25, 3.0))
    assert (burst.generation, burst.workers_alive, burst.worker_cpu) == (None, None, None)


def test_latency_ends_with_the_last_byte_of_the_body(server: FaultServer) -> None:
    """Half of the body comes after 50 ms and the rest 50 ms later: both are in the latency, each in its phase."""
    sample = build(server.url("/late_end")).burst(size=1).samples[0]
    assert sample.first_byte_s is not None
    assert sample.latency_s is not None
    assert sample.first_byte_s >= 0.05
    assert sample.latency_s - sample.first_byte_s >= 0.04  # reading the first half took its own time


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/ok", Outcome.GOOD),
        ("/chunked", Outcome.GOOD),
        ("/gzip", Outcome.GOOD),
        ("/status/500", Outcome.STATUS_500),
        ("/status/502", Outcome.STATUS_502),
        ("/status/503", Outcome.OVERLOADED_503),
        ("/status/429", Outcome.OVERLOADED_429),
        ("/status/404", Outcome.STATUS_404),
        ("/status/418", Outcome.STATUS_OTHER),
        ("/status/201", Outcome.STATUS_OTHER),
        ("/redirect", Outcome.STATUS_OTHER),
        ("/garbage", Outcome.NOT_JSON),
        ("/other", Outcome.MISSING_FIELD),
        ("/strings", Outcome.NOT_NUMERIC),
        ("/nan", Outcome.NOT_FINITE),
        ("/half", Outcome.CONNECTION_LOST),
        ("/vanish", Outcome.CONNECTION_LOST),
        ("/reset", Outcome.CONNECTION_LOST),
        ("/not_http", Outcome.PROTOCOL_ERROR),
        ("/endless", Outcome.ANSWER_TOO_LARGE),
        ("/bomb", Outcome.ANSWER_TOO_LARGE),
        ("/brotli", Outcome.PROTOCOL_ERROR),
        ("/cut_gzip", Outcome.PROTOCOL_ERROR),
    ],
)
def test_every_way_to_fail_has_its_outcome(server: FaultServer, path: str, outcome: Outcome) -> None:
    """Each real fault ends in its own word, with a line for a person that does not quote the answer."""
    expectation = Expectation(json_path="data[0].embedding", shape=(3,))
    burst = build(server.url(path), expectation=expectation).burst(size=2)
    assert [s.outcome for s in burst.samples] == [outcome] * 2
    for sample in burst.samples:
        assert (sample.detail == "") == (outcome is Outcome.GOOD)
        assert "embe" not in sample.detail or "embedding" in sample.detail  # the path may be named, the body not
        assert "SSH" not in sample.detail
    if path == "/redirect":
        assert set(server.paths()) == {"/redirect"}


@pytest.mark.parametrize(
    ("url", "outcome"),
    [
        ("http://127.0.0.1:1/", Outcome.REFUSED),
        ("http://no-such-host.invalid/", Outcome.UNREACHABLE),
        (f"http://{'a' * 64}.example/", Outcome.UNREACHABLE),
    ],
    ids=["refused", "unknown_host", "impossible_host"],
)
def test_a_server_that_cannot_be_reached_is_data(url: str, outcome: Outcome) -> None:
    """No exception leaves a burst, and nothing is measured."""
    sample = build(url).burst(size=1).samples[0]
    assert sample.outcome is outcome
    assert (sample.latency_s, sample.first_byte_s, sample.connect_s) == (None, None, None)


@pytest.mark.parametrize("path", ["/hang", "/drip_headers", "/drip_body"])
def test_the_deadline_holds_for_the_whole_request(server: FaultServer, path: str) -> None:
    """Neither silence nor a byte now and then lasts longer than timeout_s, and the burst ends there."""
    began = time.monotonic()
    burst = build(server.url(path), plan={"timeout_s": 0.3}).burst(size=4)
    assert [s.outcome for s in burst.samples] == [Outcome.TIMEOUT]
    assert burst.samples[0].latency_s is None
    assert "0.3 s" in burst.samples[0].detail
    assert 0.29 <= time.monotonic() - began < 10  # endless without a deadline
    assert server.most_in_flight == 1


def test_a_timeout_in_the_middle_ends_the_burst(server: FaultServer) -> None:
    """What was measured before it is kept; nothing is sent after it."""
    burst = build(server.url("/flaky?after=2"), plan={"timeout_s": 0.3}).burst(size=5)
    assert [s.outcome for s in burst.samples] == [Outcome.GOOD, Outcome.GOOD, Outcome.TIMEOUT]
    assert len(server.received) == 3
    assert burst.output is not None


def test_answers_in_time_never_meet_the_deadline(server: FaultServer) -> None:
    """A burst that lasts several time-outs long is fine as long as each request is in time."""
    burst = build(server.url("/slow?s=0.3"), plan={"timeout_s": 2.0}).burst(size=8)
    assert [s.outcome for s in burst.samples] == [Outcome.GOOD] * 8
    assert server.connections == 1


def test_a_server_that_keeps_no_connection_is_connected_to_again(server: FaultServer) -> None:
    """Each sample then has its own connect time and none of it is latency."""
    burst = build(server.url("/close")).burst(size=3)
    assert [s.outcome for s in burst.samples] == [Outcome.GOOD] * 3
    assert all(s.connect_s is not None for s in burst.samples)
    assert server.connections == 3


def test_every_burst_opens_a_new_connection(server: FaultServer) -> None:
    """So that over time every worker behind the port is visited."""
    canary = build(server.url("/ok"))
    canary.burst(size=2)
    canary.burst(size=2)
    canary.close()
    assert [r.connection for r in server.received] == [1, 1, 2, 2]


def test_warm_up_requests_are_sent_and_left_out(server: FaultServer) -> None:
    """They go over the same connection before the samples."""
    burst = build(server.url("/ok"), plan={"warmup": 3}).burst(size=2)
    assert len(burst.samples) == 2
    assert len(server.received) == 5
    assert server.connections == 1


@pytest.mark.parametrize(("path", "outcome"), [("/hang", "timeout"), ("/status/503", "overloaded_503")])
def test_a_failed_warm_up_is_the_only_sample(server: FaultServer, path: str, outcome: str) -> None:
    """A hung or busy server gets no further request from this burst."""
    burst = build(server.url(path), plan={"warmup": 2, "timeout_s": 0.3}).burst(size=5)
    assert [s.outcome.value for s in burst.samples] == [outcome]
    assert len(server.received) == 1


def test_a_wrong_answer_in_the_warm_up_does_not_end_the_burst(server: FaultServer) -> None:
    """The server works; whether the answer stays wrong is for the samples to say."""
    burst = build(server.url("/nan"), plan={"warmup": 1}).burst(size=3)
    assert [s.outcome for s in burst.samples] == [Outcome.NOT_FINITE] * 3


def test_the_first_burst_learns_its_size_from_the_warm_up(server: FaultServer) -> None:
    """20 ms of 60 s x 0.2 % = 120 ms: at most 5 requests once the warm-up is taken off; slow servers get one."""
    plan = {"warmup": 1, "size": 50, "max_busy": 0.002}
    assert 1 <= len(build(server.url("/slow?s=0.02"), plan=plan).burst().samples) <= 5
    assert len(build(server.url("/slow?s=0.13"), plan=plan).burst().samples) == 1


def test_without_history_or_warm_up_one_request_is_sent(server: FaultServer) -> None:
    """After that the canary knows what the server can take."""
    canary = build(server.url("/ok"))
    assert [len(canary.burst().samples) for _ in range(3)] == [1, 4, 4]


def test_the_request_is_what_was_configured_and_says_who_asks(server: FaultServer) -> None:
    """Body and headers as given, ours where the user has none, and no compression asked for."""
    headers = {"authorization": "Bearer x", "Content-Type": "application/x-toy"}
    build(server.url("/echo?a=1"), headers=headers, expectation=Expectation(), name="embed").burst(size=1)
    sent = server.received[0]
    assert (sent.method, sent.path, sent.body) == ("POST", "/echo?a=1", b'{"input": [1]}')
    assert sent.headers["authorization"] == "Bearer x"
    assert sent.headers["content-type"] == "application/x-toy"
    assert sent.headers["x-watchdog-canary"] == "embed"
    assert sent.headers["user-agent"] == "inference-watchdog"
    assert sent.headers["accept-encoding"] == "identity"


def test_a_get_without_a_body_has_no_content_type(server: FaultServer) -> None:
    """And an expected 204 without a body is a good answer without a first byte."""
    canary = build(
        server.url("/status/204"),
        method="GET",
        body=None,
        expectation=Expectation(status=204),
        content_type="text/plain",
    )
    sample = canary.burst(size=1).samples[0]
    assert sample.outcome is Outcome.GOOD
    assert sample.latency_s is not None
    assert sample.first_byte_s is None
    assert "content-type" not in server.received[0].headers


def test_cookies_are_not_carried_along(server: FaultServer) -> None:
    """The input stays the same in every request."""
    build(server.url("/cookie")).burst(size=3)
    assert not any("cookie" in r.headers for r in server.received)


def test_ambient_proxies_are_ignored(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy set for the shell the daemon was started from must not get between it and the model."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert build(server.url("/ok")).burst(size=1).samples[0].outcome is Outcome.GOOD


def test_a_control_runs_right_beside_each_request(server: FaultServer) -> None:
    """One GET after each sample, none in the warm-up, on a connection of its own."""
    burst = build(server.url("/ok"), plan={"warmup": 1}, control_url=server.url("/slow?s=0.01")).burst(size=3)
    assert server.paths() == ["/ok", "/ok", "/slow?s=0.01", "/ok", "/slow?s=0.01", "/ok", "/slow?s=0.01"]
    assert all(s.control_s is not None and s.control_s >= 0.01 for s in burst.samples)
    control = server.received[2]
    assert (control.method, control.body, control.connection) == ("GET", b"", 2)
    assert "content-type" not in control.headers


@pytest.mark.parametrize(("path", "asked"), [("/status/500", 3), ("/hang", 1)])
def test_a_failing_control_costs_the_canary_nothing(server: FaultServer, path: str, asked: int) -> None:
    """control_s is unknown then; one that hangs is not asked again in this burst."""
    burst = build(server.url("/ok"), plan={"timeout_s": 0.3}, control_url=server.url(path)).burst(size=3)
    assert [s.outcome for s in burst.samples] == [Outcome.GOOD] * 3
    assert [s.control_s for s in burst.samples] == [None] * 3
    assert server.paths().count(path) == asked


class Workers:
    """The worker that the agent's header names, or as many as are given."""

    def __init__(self, *lives: Life) -> None:
        self.lives = lives

    def look(self) -> tuple[dict[int, Life], dict[Life, list[Life]]]:
        return dict(enumerate(self.lives)), {}


NAMED = Life(pid=41, start_ticks=99)  # by the header of /named
OTHER = Life(pid=42, start_ticks=99)


@pytest.mark.parametrize(
    ("path", "lives", "asked"),
    [
        ("/named", [OTHER, NAMED], NAMED),
        ("/ok", [OTHER], OTHER),
        ("/ok", [NAMED, OTHER], None),
        ("/ok", [], None),
        ("/status/503", [OTHER], None),
    ],
    ids=["named", "the only one", "nobody knows which", "none", "no answer to compare"],
)
def test_the_kernel_runs_in_the_worker_that_answered(
    server: FaultServer, path: str, lives: list[Life], asked: Life | None
) -> None:
    """Once after each answer, the warm-up's too, so that it is warm as well; its seconds are the control."""
    runs: list[tuple[Life, int]] = []

    def kernel(life: Life) -> float:
        runs.append((life, len(server.received)))
        return len(runs) / 1000

    workers: Any = Workers(*lives)
    burst = build(server.url(path), plan={"warmup": 1}, workers=workers, kernel=kernel).burst(size=2)
    if asked is None:
        assert runs == []
        assert {s.control_s for s in burst.samples} == {None}
    else:
        assert runs == [(asked, 1), (asked, 2), (asked, 3)]
        assert [s.control_s for s in burst.samples] == [0.002, 0.003]
    assert burst.provenance["control"] == "agent", "also where the agent did not answer: nothing has changed"


def test_a_worker_that_runs_no_kernel_is_asked_once_a_burst(server: FaultServer) -> None:
    """The canary is as good as before; the next burst tries again."""
    runs: list[Life] = []
    workers: Any = Workers(NAMED)
    canary = build(server.url("/ok"), workers=workers, kernel=runs.append)
    for asked in (1, 2):
        burst = canary.burst(size=3)
        assert [(s.outcome, s.control_s) for s in burst.samples] == [(Outcome.GOOD, None)] * 3
        assert len(runs) == asked


def test_the_kernel_counts_towards_max_busy(server: FaultServer) -> None:
    """What the worker spends on it is spent for the canary: of 4 requests within 1 s one is left at 0.9 s a kernel."""
    workers: Any = Workers(NAMED)
    plan = {"interval_s": 1.0, "warmup": 1}
    burst = build(server.url("/ok"), plan=plan, workers=workers, kernel=lambda _: 0.9).burst()
    assert len(burst.samples) == 1
    assert len(build(server.url("/ok"), plan=plan, workers=workers, kernel=lambda _: 1e-6).burst().samples) == 4


def test_no_control_follows_a_timeout(server: FaultServer) -> None:
    """The server may still be at the request that timed out."""
    build(server.url("/hang"), plan={"timeout_s": 0.2}, control_url=server.url("/ok")).burst(size=3)
    assert server.paths() == ["/hang"]


def test_the_agents_header_names_life_and_provenance(server: FaultServer) -> None:
    """What it holds that is not well formed is left out."""
    burst = build(server.url("/named")).burst(size=2)
    assert [s.life for s in burst.samples] == ["41@99", "41@99"]
    assert burst.life == "41@99"
    assert burst.provenance == {"server": "toy/1", "model_version": "v7", "torch": "2.13.0", "cuda": "13.0"}


@pytest.mark.parametrize("known", [True, False], ids=["a_worker", "a_stranger"])
def test_the_header_counts_only_when_it_names_a_worker(server: FaultServer, known: bool) -> None:
    """It is the server's word: one that names nobody we watch is left out, and the peer's pid decides."""
    named = Life(pid=41, start_ticks=99) if known else Life(pid=41, start_ticks=98)

    class Watched:
        def look(self) -> tuple[dict[int, Life], dict[Life, list[Life]]]:
            return {0: named}, {}

    burst = build(server.url("/named"), workers=Watched()).burst(size=2)
    assert [s.life for s in burst.samples] == ["41@99" if known else None] * 2


def test_a_golden_output_is_compared_with(server: FaultServer) -> None:
    """The same canary, once with the answer it gave before and once with another."""
    expectation = Expectation(json_path="data[0].embedding", rtol=1e-3)
    canary = build(server.url("/ok"), expectation=expectation)
    golden = canary.burst(size=1).output
    assert golden is not None
    assert canary.burst(golden=golden, size=1).samples[0].outcome is Outcome.GOOD
    moved = Output(content_hash="other", shape=(3,), finite=True, count=3, values=(0.5, -1.0, 3.0))
    assert canary.burst(golden=moved, size=1).samples[0].outcome is Outcome.DRIFTED


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"headers": {"x": "1"}}, True),
        ({"body": b"other"}, False),
        ({"method": "PUT"}, False),
        ({"url": "http://127.0.0.1:1/ok?x=2"}, False),
        ({"url": "http://127.0.0.2:2/ok?x=1"}, True),
    ],
    ids=["nothing", "header", "body", "method", "query", "host"],
)
def test_the_input_hash_covers_method_path_and_body(changed: dict[str, Any], same: bool) -> None:
    """Two bursts are comparable when the model was asked the same, wherever it runs."""
    first = build("http://127.0.0.1:1/ok?x=1").burst(size=1).identity
    second = build(**{"url": "http://127.0.0.1:1/ok?x=1", **changed}).burst(size=1).identity
    assert (first == second) is same
    assert len(first.input_hash) == 16


def test_own_delay_after_the_kernels_stamp_taints_nothing(server: FaultServer) -> None:
    """However long the watchdog waited for a core: when the answer came is known all the same."""
    delay = count(step=0.002)
    burst = build(server.url("/slow?s=0.005"), own_delay_s=lambda: next(delay)).burst(size=1)
    assert not burst.samples[0].tainted


def test_own_delay_may_hold_up_a_large_answer(server: FaultServer) -> None:
    """A server waits for a reader that does not keep up."""
    delay = count(step=0.5)
    burst = build(server.url("/large"), own_delay_s=lambda: next(delay)).burst(size=1)
    assert burst.samples[0].tainted


def test_bursts_leave_no_thread_behind(server: FaultServer) -> None:
    """The deadline's watcher ends with its burst."""
    canary = build(server.url("/ok"), control_url=server.url("/ok"))
    canary.burst(size=2)
    assert not [t for t in threading.enumerate() if t.name == "canary-deadline"]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a fresh self-signed certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        leave_out("openssl is not installed")
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def test_own_delay_marks_a_sample_as_tainted(certificate: Path) -> None:
    """Under TLS: 20 ms of our own in a 5 ms request is too much; in a 250 ms request it is noise."""
    delay = count(step=0.02)
    trusting = ssl.create_default_context(cafile=certificate)
    with FaultServer(certificate=certificate) as server:
        for path, tainted in (("/slow?s=0.005", True), ("/slow?s=0.25", False)):
            canary = build(server.url(path), own_delay_s=lambda: next(delay), ssl_context=trusting)
            assert canary.burst(size=1).samples[0].tainted is tainted


def test_https_is_verified_and_held_to_the_deadline(certificate: Path) -> None:
    """An unknown certificate is refused; a trusted one works; a drip inside TLS times out all the same."""
    trusting = ssl.create_default_context(cafile=certificate)
    with FaultServer(certificate=certificate) as server:
        unknown = build(server.url("/ok")).burst(size=1).samples[0]
        assert unknown.outcome is Outcome.TLS_FAILED
        assert unknown.connect_s is None
        burst = build(server.url("/ok"), ssl_context=trusting).burst(size=2)
        assert [s.outcome for s in burst.samples] == [Outcome.GOOD] * 2
        assert burst.samples[0].connect_s is not None
        for path in ("/drip_headers", "/drip_body"):
            dripping = build(server.url(path), ssl_context=trusting, plan={"timeout_s": 0.3}).burst(size=2)
            assert [s.outcome for s in dripping.samples] == [Outcome.TIMEOUT]


def test_tls_to_a_server_that_speaks_none_fails_by_name() -> None:
    """The commonest mistake in a URL: https where there is only http."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_plainly() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer_plainly)
        thread.start()
        sample = build(f"https://127.0.0.1:{listening.getsockname()[1]}/").burst(size=1).samples[0]
        thread.join(10)
    assert sample.outcome is Outcome.TLS_FAILED


def test_the_answer_itself_is_not_kept(server: FaultServer) -> None:
    """Of a good answer only a hash, a shape and numbers remain."""
    assert GOOD.decode() not in repr(build(server.url("/ok")).burst(size=1))
