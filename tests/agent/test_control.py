"""The reference kernel inside real serving processes: asked for, refused, bounded, and never in the host's way."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agent_stage import TOKEN, answer_of, children_of, client, folder, life, script, wait_for

from probes.agent import AgentClient, AgentSpec
from probes.canary.burst import CanaryPlan
from probes.canary.http import HttpCanary
from probes.expectation import Expectation
from probes.messages import Burst, Life, Outcome
from probes.process import ProcessSpec, WorkerWatch
from probes.reading import AgentFault, Reading

__all__ = ["folder"]

ATTACH = "import os, sys, time\nfrom watchdog_agent.attach import attach\n"
TORCH = "import torch\ntorch.set_num_threads(1)\n"
OBEY = "print('ready', flush=True)\nfor line in sys.stdin:\n    exec(line)\n    print('done', flush=True)\n"
HOST = ATTACH + TORCH + "attach(folder=sys.argv[1])\n" + OBEY


def tell(process: subprocess.Popen[str], code: str) -> None:
    """Have the host run a line of code, to its end."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(code + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


@contextmanager
def attached(folder: Path, code: str = HOST) -> Iterator[tuple[subprocess.Popen[str], Life]]:
    with script(code, str(folder)) as process:
        worker = life(process.pid)
        answer_of(folder, worker)
        yield process, worker


def cpu_s(pid: int) -> float:
    """Of all its threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def run(folder: Path, worker: Life) -> Reading:
    return client(folder).run_kernel(worker)


def seconds(folder: Path, worker: Life) -> float:
    """What the first run took that was answered in time: a crowded machine may need more than one."""
    return wait_for(lambda: client(folder).kernel_s(worker), "a run of the kernel")


def test_a_kernel_is_run_in_the_process_that_is_asked(folder: Path) -> None:
    """It takes that process's CPU time, is named, and is timed inside: shorter than what the daemon waited."""
    with attached(folder) as (process, worker):
        seconds(folder, worker)  # builds it
        before_s, spent_s = cpu_s(process.pid), 0.0
        for _ in range(10):
            began = time.monotonic()
            ran = run(folder, worker).ran
            if ran is not None:
                assert 0 < ran.took_s < time.monotonic() - began
                assert (ran.life, ran.kernel) == (worker.key, "gemm 512 float32 cpu")
                spent_s += ran.took_s
        assert spent_s > 0
        assert cpu_s(process.pid) - before_s > 10 * 0.27e9 / 1e13, "ten times 0.27 GFLOP, on no less than a real core"


def test_torch_is_never_loaded_for_it(folder: Path) -> None:
    """A host without torch refuses, says so, and stays without."""
    code = ATTACH + "attach(folder=sys.argv[1])\n" + OBEY
    with attached(folder, code) as (process, worker):
        reading = run(folder, worker)
        assert (reading.fault, reading.detail) == (AgentFault.REFUSED, "torch is not loaded in this process")
        assert client(folder).kernel_s(worker) is None
        tell(process, "assert 'torch' not in sys.modules")
        assert answer_of(folder, worker).report is not None


@pytest.mark.parametrize("calls", ["kernel=False", "kernel=False)\nattach(", ")\nattach(kernel=False"])
def test_the_host_may_forbid_it(folder: Path, calls: str) -> None:
    """In whichever call; everything else is answered."""
    with attached(folder, ATTACH + f"attach(folder=sys.argv[1], {calls})\n".replace(", )", ")") + OBEY) as (_, worker):
        reading = run(folder, worker)
        assert (reading.fault, reading.detail) == (
            AgentFault.REFUSED,
            "attach(kernel=False) was called in this process",
        )


def test_an_older_agent_costs_nothing(folder: Path) -> None:
    """It refuses a question that it does not know, and is asked other things as before."""
    forget = "from watchdog_agent import agent_wire\ndel agent_wire._QUESTIONS['runkernel']\n"
    with attached(folder, forget + HOST) as (_, worker):
        reading = run(folder, worker)
        assert (reading.fault, reading.detail) == (AgentFault.REFUSED, "unknown kind 'runkernel'")
        assert answer_of(folder, worker).report is not None


def test_what_torch_raises_is_a_refusal(folder: Path) -> None:
    """The host sees nothing of it, and the next run may work."""
    with attached(folder) as (process, worker):
        assert seconds(folder, worker) > 0  # the first run takes longer: it sets things up
        tell(process, "real = torch.mm")
        tell(process, "torch.mm = lambda *a, **k: 1 / 0")
        reading = run(folder, worker)
        assert (reading.fault, reading.detail) == (AgentFault.REFUSED, "ZeroDivisionError: division by zero")
        tell(process, "torch.mm = real")
        assert seconds(folder, worker) > 0


def test_a_kernel_that_hangs_holds_up_no_other_answer(folder: Path) -> None:
    """Nor the host's forks for long, nor its end; no second one is begun beside it."""
    with attached(folder) as (process, worker):
        tell(process, "torch.mm = lambda *a, **k: time.sleep(600)")
        hung = run(folder, worker)
        assert (hung.fault, hung.detail) == (AgentFault.REFUSED, "the kernel has not ended within 0.2 s")
        again = run(folder, worker)
        assert (again.fault, again.detail) == (AgentFault.REFUSED, "the kernel of before has not ended")
        assert client(folder).ask([worker])[worker].report is not None
        tell(process, "pid = os.fork() or os._exit(0)")
        tell(process, "assert os.waitpid(pid, 0)[1] == 0")
        assert answer_of(folder, worker).report is not None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def test_nobody_can_make_it_a_load(folder: Path) -> None:
    """Whoever asks without a pause gets a second at once and 1 % of the time from then on; other answers still come."""
    slow = "import watchdog_agent.control as control\ncontrol.SAVED_S = 0.05\n"
    with attached(folder, slow + HOST) as (_, worker):
        reading = wait_for(lambda: r if "%" in (r := run(folder, worker)).detail else None, "the end of its patience")
        assert (reading.fault, reading.detail) == (AgentFault.REFUSED, "kernels have taken 1% of the time")
        wait_for(lambda: run(folder, worker).ran, "it is run again once time has passed")
        began, spent_s, runs = time.monotonic(), 0.0, 0
        while time.monotonic() < began + 1.5:
            ran = run(folder, worker).ran
            spent_s += ran.took_s if ran is not None else 0.0
            runs += 1
        assert runs > 50
        assert spent_s < 0.01 * (time.monotonic() - began) + 0.2, "one run may overdraw it, by no more than one answer"
        assert client(folder).ask([worker])[worker].report is not None


def test_it_goes_on_after_forks_and_in_children(folder: Path) -> None:
    """The thread that runs it never goes into a child; each process gets its own when it is asked."""
    with attached(folder) as (process, worker):
        seconds(folder, worker)
        tell(process, "pid = os.fork() or (sys.stdin.read(), os._exit(0))")
        assert seconds(folder, worker) > 0
        (child,) = children_of(process.pid)
        assert seconds(folder, life(child)) > 0


def test_the_end_of_the_process_is_clean(folder: Path) -> None:
    """A thread that comes back from torch into an interpreter that has ended would crash it."""
    code = ATTACH + TORCH + "attach(folder=sys.argv[1])\nprint('ready', flush=True)\nsys.stdin.read()\n"
    with attached(folder, code) as (process, worker):
        seconds(folder, worker)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.wait(20) == 0
        assert process.stdout.read() == ""


SERVE = """
from http.server import BaseHTTPRequestHandler, HTTPServer

class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"1")
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Model)
print("ready", flush=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_the_canary_of_a_server_has_a_control_inside_its_worker(folder: Path) -> None:
    """The connection tells the worker, the worker its agent: real requests have real controls beside them."""
    with script(ATTACH + TORCH + "attach(folder=sys.argv[1])\n" + SERVE, str(folder)) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        seconds(folder, life(process.pid))
        canary = HttpCanary(
            target="chat",
            name="default",
            plan=CanaryPlan(interval_s=60.0, timeout_s=5.0, size=4, warmup=1, max_busy=1.0),
            expectation=Expectation(),
            method="GET",
            url=f"http://127.0.0.1:{port}/",
            headers={},
            body=None,
            content_type=None,
            control_url=None,
            kernel=client(folder).kernel_s,
            workers=WorkerWatch(ProcessSpec(port=port), target="chat"),
            now=time.time,
            monotonic=time.monotonic,
        )

        def measure() -> Burst | None:
            burst = canary.burst(size=4)
            assert [s.outcome for s in burst.samples] == [Outcome.GOOD] * 4
            return burst if all(s.control_s for s in burst.samples) else None

        burst = wait_for(measure, "a control beside each request")
        assert burst.life == life(process.pid).key
        assert burst.provenance["control"] == "agent"


def test_over_a_port_only_the_worker_that_is_meant_runs_it(folder: Path) -> None:
    """Its port is learned by a question that costs nothing; the other worker has no thread for kernels."""
    code = ATTACH + TORCH + f"attach(port=int(sys.argv[1]), token={TOKEN!r})\n" + OBEY
    port = str(20_000 + os.getpid() % 10_000)
    with script(code, port) as first, script(code, port) as second:
        workers = [life(first.pid), life(second.pid)]
        asking = AgentClient(AgentSpec(port=int(port), token=TOKEN), monotonic=time.monotonic)
        wait_for(lambda: all(r.report for r in asking.ask(workers).values()), "both answer")
        fresh = AgentClient(AgentSpec(port=int(port), token=TOKEN), monotonic=time.monotonic)
        wait_for(lambda: fresh.kernel_s(workers[1]), "a run of the kernel")
        others, asked = (len(list(Path(f"/proc/{worker.pid}/task").iterdir())) for worker in workers)
        assert asked == others + 1, "one: the host has told torch to use no more"
