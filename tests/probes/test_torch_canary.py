"""The isolated torch canary: real child processes, real torch on the CPU, models that misbehave on demand."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from probes.canary.burst import CanaryPlan
from probes.canary.torch import TorchCanary
from probes.expectation import Expectation
from probes.facts import SERVER_CPU, SERVER_WAIT
from probes.messages import Burst, Outcome
from probes.worker import ProbeError, WorkerError, WorkerProcess
from watchdog_agent import wire

PLAN = CanaryPlan(interval_s=60, timeout_s=20, size=4, warmup=1, max_busy=1.0)
IMPATIENT = CanaryPlan(interval_s=60, timeout_s=1.5, size=4, warmup=1, max_busy=1.0)
LOAD_S = 60.0

TOY = '''
import ctypes, os, sys, time
from pathlib import Path

import torch
from torch import nn

MM = torch.mm
print("printed at import")


class Toy(nn.Module):
    """Does what the file `mode` in the current folder says; a number before it says how many calls are still good."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        torch.set_num_threads(1)
        self.linear = nn.Linear(16, 4)
        self.large = torch.rand(300_000)

    def forward(self, x):
        mode = Path("mode").read_text() if Path("mode").exists() else ""
        if mode[:1].isdigit():
            left = int(mode[0])
            mode = mode[1:] if left == 0 else Path("mode").write_text(f"{left - 1}{mode[1:]}") and ""
        if mode == "print":
            print('{"v": 1, "kind": "timed"}')
            os.write(1, b"raw noise on fd 1")
            os.system("echo noise of a child")
            assert sys.stdin.read() == ""
        elif mode == "raise":
            raise ValueError("a bad day")
        elif mode == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        elif mode == "cuda":
            raise RuntimeError("CUDA error: device-side assert triggered\\nCompile with TORCH_USE_CUDA_DSA")
        elif mode == "nan":
            return self.linear(x) * float("nan")
        elif mode == "drift":
            return self.linear(x) + 0.1
        elif mode == "write":
            return self.linear(x.add_(1.0))
        elif mode == "text":
            return "no tensor"
        elif mode == "hang":
            time.sleep(600)
        elif mode == "stubborn":
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        elif mode == "abort":
            os.abort()
        elif mode == "exit":
            os._exit(7)
        elif mode == "segfault":
            ctypes.string_at(0)
        elif mode == "no kernel":
            torch.mm = None
        elif mode == "kernel":
            torch.mm = MM
        elif mode == "heavy":
            return torch.erfinv(self.large).sum() + self.linear(x)
        return self.linear(x)


def make():
    return Toy()


def picky():
    raise LookupError("no vocabulary")


def number():
    return 5
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toy.py and the same small network as .pt2, as TorchScript and as weights."""
    home = tmp_path_factory.mktemp("models")
    (home / "toy.py").write_text(TOY)
    net = nn.Sequential(nn.Linear(16, 4)).eval()
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(net, (torch.randn(2, 16),), dynamic_shapes=({0: batch},)), home / "net.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(net, torch.randn(2, 16)), home / "net.pt")
    (home / "broken.pt2").write_bytes(b"no archive")
    torch.save({"linear.weight": torch.zeros(4, 16), "linear.bias": torch.full((4,), 3.0)}, home / "weights.pth")
    torch.save({"linear.weight": torch.zeros(4, 16)}, home / "half.pth")
    torch.save(Path("x"), home / "code.pth")
    return home


def _canary(folder: Path, **changes: Any) -> TorchCanary:
    arguments: dict[str, Any] = {
        "target": "t",
        "name": "c",
        "plan": PLAN,
        "expectation": Expectation(),
        "model": "toy.py:make",
        "input_spec": {"shape": [2, 16], "seed": 3},
        "device": "cpu",
        "folder": folder,
        "load_timeout_s": LOAD_S,
        **changes,
    }
    return TorchCanary(**arguments)


@pytest.fixture
def canary(folder: Path) -> Iterator[Callable[..., TorchCanary]]:
    """Makes canaries that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(**changes: Any) -> TorchCanary:
            return stack.enter_context(contextlib.closing(_canary(folder, **changes)))

        yield make


@pytest.fixture(scope="module")
def toy(folder: Path) -> Iterator[TorchCanary]:
    """One canary whose worker survives, for the tests that leave it alive."""
    with contextlib.closing(_canary(folder, expectation=Expectation(rtol=1e-3, atol=1e-3))) as shared:
        yield shared


@pytest.fixture
def mode(folder: Path) -> Iterator[Callable[[str], object]]:
    """Tells the toy how to behave from now on."""
    yield (folder / "mode").write_text
    (folder / "mode").unlink(missing_ok=True)


def _outcomes(burst: Burst) -> list[Outcome]:
    return [s.outcome for s in burst.samples]


def _last(burst: Burst) -> tuple[Outcome, str]:
    return burst.samples[-1].outcome, burst.samples[-1].detail


def _pid(burst: Burst) -> int:
    assert burst.life is not None
    return int(burst.life.partition("@")[0])


def _is_gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


# A model that works.


def test_burst_tells_latency_output_and_who_measured(toy: TorchCanary) -> None:
    """Everything the daemon keeps comes with one burst."""
    burst = toy.burst()
    assert _outcomes(burst) == [Outcome.GOOD] * 4
    assert all(s.latency_s is not None and 0 < s.latency_s < 20 for s in burst.samples)
    times = [s.at for s in burst.samples]  # when each was heard, less its latency: to a millisecond
    assert all(later > earlier - 0.001 for earlier, later in pairwise(times))
    assert burst.at <= burst.samples[0].at <= time.time()
    process = psutil.Process(_pid(burst))
    assert process.ppid() == os.getpid()
    stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    assert burst.life == f"{process.pid}@{stat[19]}"
    assert (burst.identity.shapes, burst.identity.dtype, burst.identity.gpu_type) == ("(2, 16)", "float32", None)
    assert len(burst.identity.input_hash) == 16
    assert burst.provenance["torch"] == str(torch.__version__)
    assert len(burst.provenance["model_hash"]) == 16
    assert {"model_load_s", "host_anon_bytes", SERVER_CPU, SERVER_WAIT} <= set(burst.facts)
    assert 0 < burst.facts[SERVER_CPU] <= (os.cpu_count() or 1)
    assert burst.facts["model_load_s"] > 0
    assert burst.facts["host_anon_bytes"] > 10e6
    assert burst.output is not None
    assert (burst.output.shape, burst.output.count, burst.output.finite) == ((2, 4), 8, True)


def test_bursts_share_one_worker_and_one_input(toy: TorchCanary) -> None:
    """No restart between bursts, and the same answer bit for bit."""
    first, second = toy.burst(), toy.burst()
    assert first.life == second.life
    assert first.identity == second.identity
    assert first.output == second.output


def test_what_the_model_computes_is_what_torch_computes(toy: TorchCanary) -> None:
    """The input is torch.randn of the seed; the values are the network's."""
    torch.manual_seed(1)
    linear = nn.Linear(16, 4)
    values = linear(torch.randn(2, 16, generator=torch.Generator().manual_seed(3)))
    burst = toy.burst()
    assert burst.output is not None
    assert burst.output.values == pytest.approx(values.detach().reshape(-1).tolist(), abs=1e-6)


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (6, 6), (0, 1)])
def test_size_is_the_callers(toy: TorchCanary, size: int, expected: int) -> None:
    """And never below one."""
    assert len(toy.burst(size=size).samples) == expected


def test_what_the_model_prints_corrupts_nothing(toy: TorchCanary, mode: Callable[[str], object]) -> None:
    """print, fd 1 and child processes go elsewhere, and stdin is empty."""
    mode("print")
    assert _outcomes(toy.burst()) == [Outcome.GOOD] * 4


def test_a_model_that_writes_into_its_input_gets_a_fresh_one(toy: TorchCanary, mode: Callable[[str], object]) -> None:
    """Else the answer would change from call to call."""
    mode("write")
    assert toy.burst().output == toy.burst().output


def test_max_busy_bounds_the_burst(folder: Path, canary: Callable[..., TorchCanary]) -> None:
    """With next to no share of the time allowed, one call is left."""
    plan = CanaryPlan(interval_s=1, timeout_s=20, size=4, warmup=1, max_busy=1e-9)
    assert len(canary(plan=plan, model="net.pt").burst().samples) == 1


def test_each_call_has_a_control_beside_it(toy: TorchCanary) -> None:
    """A fixed kernel on the same device, right after the call and not in its latency; its name is kept."""
    before = time.time()
    burst = toy.burst()
    controls = [s.control_s for s in burst.samples]
    assert all(control is not None and control > 0 for control in controls)
    assert len(set(controls)) > 1
    assert burst.provenance["control"] == "gemm 512 float32 cpu"
    assert sum((s.latency_s or 0) + (s.control_s or 0) for s in burst.samples) < time.time() - before


def test_a_kernel_that_fails_costs_the_burst_nothing(toy: TorchCanary, mode: Callable[[str], object]) -> None:
    """The control is not known then; the calls are as good as before."""
    mode("no kernel")
    burst = toy.burst()
    assert _outcomes(burst) == [Outcome.GOOD] * 4
    assert [s.control_s for s in burst.samples] == [None] * 4
    mode("kernel")
    assert toy.burst().samples[-1].control_s is not None


def test_without_a_control_no_kernel_runs(canary: Callable[..., TorchCanary]) -> None:
    """Neither a time nor a name."""
    burst = canary(control=False, model="net.pt").burst()
    assert _last(burst) == (Outcome.GOOD, "")
    assert {s.control_s for s in burst.samples} == {None}
    assert "control" not in burst.provenance


def test_the_control_counts_towards_max_busy(canary: Callable[..., TorchCanary]) -> None:
    """A linear layer of 64 weights is far cheaper than the kernel: what is affordable is the kernel's to decide."""
    mine = canary(model="net.pt")
    burst = mine.burst()
    latency_s, control_s = (
        statistics.median(value or 0.0 for value in values)
        for values in ([s.latency_s for s in burst.samples], [s.control_s for s in burst.samples])
    )
    assert mine._typical_s == pytest.approx(latency_s + control_s)
    mine.plan = CanaryPlan(interval_s=1.0, timeout_s=20, size=4, warmup=1, max_busy=(latency_s + control_s) * 3.5)
    assert len(mine.burst().samples) == 2


@pytest.mark.parametrize(
    ("model", "weights"),
    [("net.pt2", None), ("net.pt", None), ("toy:make", "weights.pth")],
    ids=["torch.export", "TorchScript", "factory and weights"],
)
def test_model_is_loaded_from(canary: Callable[..., TorchCanary], model: str, weights: str | None) -> None:
    """Each kind of model answers; weights replace those of the factory."""
    burst = canary(model=model, weights=weights).burst(size=2)
    assert _last(burst) == (Outcome.GOOD, "")
    assert burst.output is not None
    assert burst.output.shape == (2, 4)
    if weights:
        assert burst.output.values == (3.0,) * 8


# A model that answers wrongly or not at all, in a worker that goes on.


@pytest.mark.parametrize(
    ("behaviour", "outcome", "detail"),
    [
        ("nan", Outcome.NOT_FINITE, "NaN"),
        ("drift", Outcome.DRIFTED, "8 of 8"),
        ("text", Outcome.NOT_NUMERIC, "no tensor"),
    ],
)
def test_wrong_answer_marks_the_whole_burst(
    toy: TorchCanary,
    mode: Callable[[str], object],
    behaviour: str,
    outcome: Outcome,
    detail: str,
) -> None:
    """The answer is compared with the golden one; same input, same weights, so it stands for all calls."""
    golden = toy.burst().output
    assert _outcomes(toy.burst(golden=golden)) == [Outcome.GOOD] * 4
    mode(behaviour)
    wrong = toy.burst(golden=golden)
    assert _outcomes(wrong) == [outcome] * 4
    assert detail in wrong.samples[0].detail


@pytest.mark.parametrize(
    ("behaviour", "outcome", "detail"),
    [
        ("raise", Outcome.WORKER_ERROR, "ValueError: a bad day (toy.py:"),
        ("oom", Outcome.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB (toy.py:"),
    ],
)
def test_exception_of_the_model_is_an_outcome_and_the_worker_goes_on(
    toy: TorchCanary, mode: Callable[[str], object], behaviour: str, outcome: Outcome, detail: str
) -> None:
    """Two calls and the warm-up pass, the third call raises: what was completed is kept."""
    before = toy.burst()
    mode(f"3{behaviour}")
    burst = toy.burst()
    assert _outcomes(burst) == [Outcome.GOOD, Outcome.GOOD, outcome]
    assert burst.samples[-1].detail.startswith(detail)
    assert burst.samples[-1].latency_s is None
    assert burst.output is None
    assert burst.identity == before.identity
    mode("")
    assert toy.burst().life == before.life


# A worker that fails, and the next one.


@pytest.mark.parametrize(
    ("behaviour", "outcome", "details"),
    [
        ("abort", Outcome.WORKER_CRASHED, ["killed by SIGABRT: Fatal Python error: Aborted", "toy.py", "in forward"]),
        ("segfault", Outcome.WORKER_CRASHED, ["killed by SIGSEGV: Fatal Python error: Segmentation fault"]),
        ("exit", Outcome.WORKER_CRASHED, ["exit code 7"]),
        ("cuda", Outcome.CUDA_FAULT, ["RuntimeError: CUDA error: device-side assert triggered (toy.py:"]),
        ("hang", Outcome.TIMEOUT, ["no answer within 1.5 s; it was at", "toy.py", "in forward"]),
    ],
)
def test_failed_worker_is_an_outcome_and_is_replaced(
    canary: Callable[..., TorchCanary],
    mode: Callable[[str], object],
    behaviour: str,
    outcome: Outcome,
    details: list[str],
) -> None:
    """The first good call is kept, the burst ends at the failure, the process is gone, the next burst starts anew."""
    mine = canary(plan=IMPATIENT)
    first = mine.burst()
    mode(f"2{behaviour}")
    failed = mine.burst()
    assert _outcomes(failed) == [Outcome.GOOD, outcome]
    for detail in details:
        assert detail in failed.samples[-1].detail
    assert failed.life == first.life
    assert failed.identity == first.identity
    assert _is_gone(_pid(first))
    if behaviour in ("hang", "exit", "cuda"):
        mode("")
        again = mine.burst()
        assert _outcomes(again) == [Outcome.GOOD] * 4
        assert again.life != first.life
        assert again.output == first.output


def test_worker_that_ignores_term_is_killed(canary: Callable[..., TorchCanary], mode: Callable[[str], object]) -> None:
    """TERM, grace, KILL."""
    mine = canary(plan=IMPATIENT)
    pid = _pid(mine.burst())
    mode("stubborn")
    assert _last(mine.burst())[0] is Outcome.TIMEOUT
    assert _is_gone(pid, within_s=0.1)


def test_worker_that_died_between_bursts_is_told_once(canary: Callable[..., TorchCanary]) -> None:
    """Killed from outside, as the kernel does when memory runs out: one crashed burst, then a new worker."""
    mine = canary(model="net.pt")
    pid = _pid(mine.burst())
    os.kill(pid, signal.SIGKILL)
    outcome, detail = _last(mine.burst())
    assert outcome is Outcome.WORKER_CRASHED
    assert "SIGKILL" in detail
    assert _last(mine.burst())[0] is Outcome.GOOD


def test_load_that_takes_too_long_is_a_failed_load(canary: Callable[..., TorchCanary]) -> None:
    """The deadline covers start and import of torch too; nothing is left running."""
    mine = canary(load_timeout_s=0.05)
    outcome, detail = _last(mine.burst())
    assert outcome is Outcome.MODEL_LOAD_FAILED
    assert "toy.py:make: not loaded within 0.05 s" in detail
    assert mine._worker is not None
    assert mine._worker.ended


@pytest.mark.parametrize(
    ("changes", "details"),
    [
        ({"model": "missing.pt2"}, ["missing.pt2", "no such file"]),
        ({"model": "broken.pt2"}, ["broken.pt2"]),
        ({"model": "toy.py:picky"}, ["toy.py:picky: LookupError: no vocabulary (toy.py:"]),
        ({"model": "weights.pth"}, ["weights.pth: not TorchScript; a state dict is given as weights"]),
        ({"model": "toy:make", "weights": "half.pth"}, ["toy:make", "linear.bias"]),
        ({"model": "toy:make", "weights": "code.pth"}, ["code.pth holds more than tensors"]),
        ({"device": "cuda"}, ["toy.py:make", "device is cuda"]),
    ],
    ids=[
        "missing",
        "broken pt2",
        "factory raises",
        "state dict",
        "wrong weights",
        "code in weights",
        "no cuda",
    ],
)
def test_load_failure_names_the_model_and_why(
    canary: Callable[..., TorchCanary], changes: dict[str, Any], details: list[str]
) -> None:
    """One sample, no identity invented, and a message to act on."""
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    burst = canary(**changes).burst()
    assert _outcomes(burst) == [Outcome.MODEL_LOAD_FAILED]
    for detail in details:
        assert detail in burst.samples[0].detail
    assert burst.identity.input_hash == "unknown"
    assert burst.life is None


# Interpreters.


def _program(folder: Path, body: str) -> str:
    """An executable that stands in for an interpreter."""
    path = folder / f"program-{abs(hash(body))}"
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("body", "outcome", "detail"),
    [
        (None, Outcome.WORKER_ERROR, "cannot start /no/such/python: No such file or directory"),
        ("print('Welcome to the cluster!'); input()", Outcome.WORKER_ERROR, "not understood: not JSON: b'Welcome"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", Outcome.WORKER_ERROR, "a line of more than"),
        ("""print('{"v": 2, "kind": "loaded"}', flush=True); input()""", Outcome.WORKER_ERROR, "this side speaks 1"),
        (
            """print('{"v": 1, "kind": "timed", "latency_s": 1, "device_s": null}', flush=True); input()""",
            Outcome.WORKER_ERROR,
            "Timed instead of Loaded",
        ),
        ("import sys; sys.exit('no licence')", Outcome.WORKER_CRASHED, "exit code 1: no licence"),
        (
            "import os, subprocess, sys\nsubprocess.Popen(['sleep', '60'])\nos._exit(4)",
            Outcome.WORKER_CRASHED,
            "exit code 4",
        ),
    ],
    ids=["missing", "garbage", "endless line", "other version", "other answer", "exits", "leaves a child on the pipe"],
)
def test_program_that_is_no_worker(
    folder: Path, canary: Callable[..., TorchCanary], body: str | None, outcome: Outcome, detail: str
) -> None:
    """Whatever the interpreter does is an outcome with its reason."""
    python = "/no/such/python" if body is None else _program(folder, body)
    got, why = _last(canary(python=python).burst())
    assert (got, detail in why) == (outcome, True), why


def test_interpreter_without_torch_is_named(tmp_path: Path, canary: Callable[..., TorchCanary]) -> None:
    """A real interpreter with an empty site; it sees the agent and nothing else of ours."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    python = str(venv / "bin" / "python")
    outcome, why = _last(canary(python=python).burst())
    assert outcome is Outcome.MODEL_LOAD_FAILED
    assert f"torch cannot be imported by {python}: No module named 'torch'" in why


def test_worker_sees_only_the_agent(folder: Path, canary: Callable[..., TorchCanary]) -> None:
    """The path of a foreign interpreter gains one folder, which holds one package."""
    program = _program(
        folder,
        """
        import os, sys
        sys.exit(repr((os.environ["PYTHONPATH"] == os.getcwd(), os.listdir(), sys.argv[1:])))
        """,
    )
    _, why = _last(canary(python=program).burst())
    assert why == "exit code 1: (True, ['watchdog_agent'], ['-m', 'watchdog_agent.worker'])"


# Ends.


def test_worker_ends_with_the_daemon_even_while_it_hangs(folder: Path, mode: Callable[[str], object]) -> None:
    """The daemon is killed without a chance to clean up, in the middle of a call that never returns."""
    mode("hang")
    root = Path(wire.__file__).parents[1]
    daemon = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""if True:
            import sys, time
            from probes.worker import WorkerProcess
            from watchdog_agent import wire
            worker = WorkerProcess(python=sys.executable, monotonic=time.monotonic)
            toy = {{"model": "toy.py:make", "input": {{"shape": [1, 16]}}, "device": "cpu", "folder": {str(folder)!r}}}
            worker.send(wire.Load(**toy))
            worker.receive(wire.Loaded, timeout_s=60)
            worker.send(wire.Burst(warmup=0, size=1, values=0))
            print(worker.pid, flush=True)
            time.sleep(600)""",
        ],
        cwd=root,
        env={**os.environ, "TMPDIR": str(folder)},  # what a killed daemon leaves behind goes with the test's folder
        stdout=subprocess.PIPE,
        text=True,
    )
    with daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        assert psutil.Process(pid).is_running()
        daemon.kill()
    assert _is_gone(pid)


def test_close_ends_the_worker_and_leaves_nothing(canary: Callable[..., TorchCanary]) -> None:
    """Process and folder are gone; a burst after that is data like any other."""
    mine = canary(model="net.pt")
    pid = _pid(mine.burst())
    home = Path(psutil.Process(pid).environ()["PYTHONPATH"])
    assert home.is_dir()
    mine.close()
    mine.close()
    assert _is_gone(pid, within_s=0.1)
    assert not home.exists()
    assert _last(mine.burst()) == (Outcome.WORKER_ERROR, "the canary is closed")


def test_close_ends_a_burst_in_flight(canary: Callable[..., TorchCanary], mode: Callable[[str], object]) -> None:
    """The daemon stops in seconds, not after the request's time-out of 20 s."""
    mine = canary()
    pid = _pid(mine.burst())
    mode("hang")
    bursts: list[Burst] = []
    thread = threading.Thread(target=lambda: bursts.append(mine.burst()))
    thread.start()
    deadline = time.monotonic() + 10
    while not mine._lock.locked() and time.monotonic() < deadline:
        time.sleep(0.01)
    mine.close()
    thread.join(10)
    assert not thread.is_alive()
    assert _last(bursts[0])[0] is Outcome.WORKER_CRASHED
    assert _is_gone(pid, within_s=0.1)


def test_input_that_cannot_be_sent_fails_at_once(folder: Path) -> None:
    """A mistake of the configuration is not found at night."""
    with pytest.raises(wire.WireError):
        _canary(folder, input_spec={"shape": list(range(100_000))})


# The profiler.


def test_profile_names_the_expensive_operator(toy: TorchCanary, mode: Callable[[str], object]) -> None:
    """erfinv of 300,000 numbers against a small linear layer; the worker goes on afterwards."""
    before = toy.burst()
    mode("heavy")
    snapshot = toy.profile(steps=20)
    assert snapshot.ops[0].name == "aten::erfinv"
    assert (snapshot.target, snapshot.canary, snapshot.steps) == ("t", "c", 20)
    assert snapshot.ops[0].calls_per_step == 1
    assert 0 < snapshot.ops[0].self_s < snapshot.step_s
    assert list(snapshot.ops) == sorted(snapshot.ops, key=lambda op: op.self_s, reverse=True)
    assert snapshot.environment.items() >= {"device": "cpu", "shapes": "(2, 16)", "dtype": "float32"}.items()
    assert snapshot.environment["torch"] == str(torch.__version__)
    assert snapshot.environment["threads"] == "1"
    mode("")
    assert toy.burst().life == before.life


def test_profile_of_a_failing_model_says_why(toy: TorchCanary, mode: Callable[[str], object]) -> None:
    """An exception with an outcome, since there is no snapshot to return."""
    mode("raise")
    with pytest.raises(ProbeError, match="a bad day") as caught:
        toy.profile()
    assert isinstance(caught.value, WorkerError)
    assert caught.value.outcome is Outcome.WORKER_ERROR


# The worker by itself.


def test_request_out_of_order_is_answered() -> None:
    """A burst before any load is an error of the worker, and the worker goes on."""
    worker = WorkerProcess(python=sys.executable, monotonic=time.monotonic)
    try:
        for _ in range(2):
            worker.send(wire.Burst(warmup=0, size=1, values=0))
            with pytest.raises(WorkerError, match="no model is loaded"):
                worker.receive(wire.Timed, timeout_s=LOAD_S)
        assert worker.usable
    finally:
        worker.close()
    assert worker.ended
    assert not worker.usable


def test_kernel_takes_the_worker_before_the_server() -> None:
    """Out of memory on the machine must not end the server that is watched."""
    worker = WorkerProcess(python=sys.executable, monotonic=time.monotonic)
    try:
        worker.send(wire.Profile(steps=1))
        with pytest.raises(WorkerError):
            worker.receive(wire.Profiled, timeout_s=LOAD_S)
        assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text().strip() == "1000"
    finally:
        worker.close()


# CUDA.


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["toy.py:make", "net.pt2", "net.pt"])
def test_cuda_is_timed_by_events_and_its_memory_told(
    cuda: None, canary: Callable[..., TorchCanary], model: str
) -> None:
    """Time on the device is within the wall time; the allocator holds at least the weights."""
    burst = canary(model=model, device="cuda").burst()
    assert _last(burst) == (Outcome.GOOD, "")
    latencies = sorted(s.latency_s or 0.0 for s in burst.samples)
    assert 0 < burst.facts["device_latency_s"] <= latencies[-1]
    assert burst.facts["peak_allocated_bytes"] >= burst.facts["allocated_bytes"] >= 16 * 4 * 4
    assert burst.facts["reserved_bytes"] >= burst.facts["allocated_bytes"]
    assert burst.provenance["control"] == "gemm 1024 float32 cuda x8"
    assert all(s.control_s is not None and s.control_s > 0 for s in burst.samples)
    assert burst.identity.gpu_type == torch.cuda.get_device_name()
    assert burst.provenance["cuda"] == torch.version.cuda


@pytest.mark.gpu
def test_cuda_profile_names_kernels(cuda: None, canary: Callable[..., TorchCanary]) -> None:
    """Kernels have device time; operators have time of the host."""
    snapshot = canary(model="net.pt2", device="cuda").profile()
    kernels = [op for op in snapshot.ops if op.device_self_s is not None]
    assert kernels
    assert all((op.device_self_s or 0) >= 0 for op in kernels)
    assert any(op.name.startswith("aten::") and op.device_self_s is None for op in snapshot.ops)
