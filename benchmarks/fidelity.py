"""Does the daemon record what a client sees? Its p50 and p95 beside those of a bare socket, on one server in one run.

A thread that waits for a socket sees an answer later than it came, by the time that it takes to wake up. So the bare
socket is read twice: by the clock after each read, and by the kernel's stamp, which the watchdog uses too.

The server's latencies are known (see `paced_server`): each client asks a path of its own and meets the same
distribution. Measured twice, alone and while a hundred other targets are watched, with Debian's blackbox_exporter
beside it when that is installed (its phases "processing" and "transfer", which is what the others measure too).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np

from baselines import burst_store
from baselines.database import open_database
from benchmarks import report
from benchmarks.watched import Child, Daemon, PacedServer, answers, free_port, scratch_folder, target, wait_until
from probes.canary.stopwatch import SO_TIMESTAMPNS

BURST, WARMUP = 10, 1
ROUND_S = 1.0
OTHERS = 100
TOLERANCE, FLOOR_S = 0.02, 0.0003  # 2 %, or 0.3 ms where that is more
BARE, STAMPED, OURS = "bare socket", "bare socket, by stamp", "watchdog"
EXPORTER = "prometheus-blackbox-exporter"


class BareSocket:
    """The least a client can do: send, receive to the last byte, look at the clock before and after."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        body = b"[1]"
        self._question = b"POST /bare HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def burst(self) -> list[tuple[float, float]]:
        """Seconds of each request by the clock and by the stamp; over one fresh connection, the first thrown away."""
        with socket.create_connection(self._address) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            return [self._ask(connection) for _ in range(WARMUP + BURST)][WARMUP:]

    def _ask(self, connection: socket.socket) -> tuple[float, float]:
        sent_at, began = time.time(), time.perf_counter()
        connection.sendall(self._question)
        answer, stamp = b"", b""
        while not answer.endswith(b"}"):
            part, ancillary, _, _ = connection.recvmsg(65536, 64)
            answer += part
            stamp = next((content for _, kind, content in ancillary if kind == SO_TIMESTAMPNS), stamp)
        took_s = time.perf_counter() - began
        if not stamp:  # Linux begins to stamp a moment after the first socket asked for it
            return took_s, took_s
        seconds, nanoseconds = struct.unpack("qq", stamp)
        return took_s, seconds + nanoseconds / 1e9 - sent_at


class Exporter:
    """blackbox_exporter, asked as Prometheus would."""

    def __init__(self, url: str, folder: Path) -> None:
        self.port = free_port()
        config = folder / "blackbox.yml"
        config.write_text(
            "modules: {m: {prober: http, http: {method: POST, body: '[1]', preferred_ip_protocol: ip4}}}\n"
        )
        argv = [EXPORTER, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{self.port}"]
        self.child = Child(argv, log=folder / "blackbox.log")
        wait_until(lambda: answers(self.port), "the exporter listens")
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False)
        self._question = {"target": url, "module": "m"}

    def burst(self) -> list[float]:
        return [self._ask() for _ in range(BURST)]

    def _ask(self) -> float:
        text = self._client.get("/probe", params=self._question).raise_for_status().text
        phases = dict(re.findall(r'^probe_http_duration_seconds\{phase="(\w+)"\} (\S+)$', text, re.MULTILINE))
        return float(phases["processing"]) + float(phases["transfer"])


@contextlib.contextmanager
def exporter(url: str, folder: Path) -> Iterator[Exporter | None]:
    if shutil.which(EXPORTER) is None:
        print(f"{EXPORTER} is not installed: left out")
        yield None
        return
    one = Exporter(url, folder)
    with one.child:
        yield one


def recorded(daemon: Daemon, since: float) -> list[float]:
    """Latencies in seconds that the daemon kept for judging."""
    database = open_database(f"sqlite:///{daemon.database}")
    with database.read() as connection:
        bursts = burst_store.bursts_since(connection, "measured", "default", since=since, limit=100_000)
    database.close()
    return [s.latency_s for b in bursts for s in b.judged if s.latency_s is not None]


def measure(seconds: float, others: int) -> dict[str, list[float]]:
    """Latencies by client; the clients take turns in each round."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(scratch_folder()))
        server = stack.enter_context(PacedServer(folder))
        crowd = stack.enter_context(PacedServer(folder)) if others else None
        canary = f"max_busy = 1.0\nburst = {BURST}\nwarmup = {WARMUP}"
        targets = [target("measured", server.url("watched"), interval=f"{ROUND_S:g}s", canary=canary)]
        targets += [target(f"other-{i}", crowd.url(f"other-{i}")) for i in range(others) if crowd]
        daemon = stack.enter_context(Daemon(folder, targets)).wait_ready()
        blackbox = stack.enter_context(exporter(server.url("each/blackbox"), folder))
        bare = BareSocket(server.port)
        time.sleep(5.0)  # the first bursts of a process are its slowest, in every client
        began = time.time()
        found: dict[str, list[float]] = {BARE: [], STAMPED: []}
        rng = random.Random(0)
        while (now := time.time()) < began + seconds:
            time.sleep(rng.uniform(0.0, 0.5 * ROUND_S))  # else the canary would meet the same client each time
            both = bare.burst()
            found[BARE] += [by_clock for by_clock, _ in both]
            found[STAMPED] += [by_stamp for _, by_stamp in both]
            if blackbox:
                found.setdefault("blackbox_exporter", []).extend(blackbox.burst())
            time.sleep(max(0.0, now + ROUND_S - time.time()))
        found[OURS] = recorded(daemon, began)
    return found


def compare(found: dict[str, list[float]], *, where: str) -> tuple[dict[str, float], list[report.Goal]]:
    """Figures and goals of one situation, printed too."""
    figures: dict[str, float] = {}
    goals: list[report.Goal] = []
    rows = []
    for client, latencies in found.items():
        row = [client, len(latencies)]
        for q in (0.5, 0.95, 0.99):
            value_s = float(np.quantile(latencies, q))
            truth_s = float(np.quantile(found[BARE], q))
            figures[f"{client} p{100 * q:g} s"] = value_s
            row.append(f"{1e3 * value_s:.3f} ms ({100 * (value_s / truth_s - 1):+.2f} %)")
            if client == OURS and q < 0.99:
                allowed_s = max(TOLERANCE * truth_s, FLOOR_S)
                goals.append(
                    report.at_most(
                        f"p{100 * q:g} against a bare socket, {where}",
                        1e3 * abs(value_s - truth_s),
                        1e3 * allowed_s,
                        "ms off",
                        digits=3,
                    )
                )
        rows.append(row)
    print(f"\n{where}:")
    report.show_table(rows, header=("client", "requests", "p50", "p95", "p99"))
    return figures, goals


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=120.0, help="for each of the two situations")


def run(options: argparse.Namespace) -> report.Report:
    figures, goals = {}, []
    for where, others in (("alone", 0), (f"beside {OTHERS} other targets", OTHERS)):
        figures[where], reached = compare(measure(options.seconds, others), where=where)
        goals += reached
    return report.Report(name="fidelity", figures=figures, goals=goals)


if __name__ == "__main__":
    report.main(run, describe, __doc__)
