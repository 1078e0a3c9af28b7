"""The canary that asks over HTTP, as a client of the model would."""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import httpx

from probes.canary.burst import CanaryPlan, affordable_size, hash_input, typical_control
from probes.canary.exchange import Connection, Exchange, Question
from probes.canary.provenance import read_life, read_provenance, secret_words
from probes.expectation import Expectation, check_body
from probes.messages import Burst, Family, Identity, Life, Outcome, Output, Sample, outcome_of_status
from probes.process import WorkerWatch, cpu_seconds, find_named, generation_of, peer_life
from probes.surroundings import Surroundings
from probes.taint import is_tainted, run_queue_delay_s

BUFFERED_BYTES = 65_536  # below what Linux buffers for a socket at first (net.ipv4.tcp_rmem): the server need not wait


class HttpCanary:
    """Sends the same request again and again, over one fresh connection a burst, and checks what comes back.

    expectation.status: any other status is an outcome of its own; the body is then not looked at.
    headers: replace ours of the same name; content_type goes with a body only.
    control_url: asked with GET right after each request; None measures no control there.
    kernel: has a worker's agent run the reference kernel, and tells the seconds or None. Called right after each answer
        of that worker, in place of control_url.
    workers: the target's processes; None leaves generation, workers_alive and worker_cpu unknown.
    version_header: the header of an answer that names the model's version.
    ssl_context: for https; None trusts what the machine trusts.
    own_delay_s: a counter of our own delay (`taint.OwnDelay`), asked from the thread that runs the burst.
    """

    isolated = False

    def __init__(
        self,
        *,
        target: str,
        name: str,
        plan: CanaryPlan,
        expectation: Expectation,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        content_type: str | None,
        control_url: str | None,
        workers: WorkerWatch | None,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        kernel: Callable[[Life], float | None] | None = None,
        version_header: str = "x-model-version",
        ssl_context: ssl.SSLContext | None = None,
        own_delay_s: Callable[[], float] = run_queue_delay_s,
    ) -> None:
        self.target = target
        self.name = name
        self.plan = plan
        self._expectation = expectation
        ours = {"X-Watchdog-Canary": name}
        self._control = None if control_url is None else Question(method="GET", url=control_url, headers=ours)
        typed = {"Content-Type": content_type} if body is not None and content_type is not None else {}
        merged = httpx.Headers({**ours, **typed})
        merged.update(dict(headers))
        self._question = Question(method=method, url=url, headers=merged, body=body)
        self._identity = Identity(input_hash=hash_input(method.encode(), httpx.URL(url).raw_path, body or b""))
        self._kernel = kernel
        self._kernel_s = 0.0
        self._workers = workers
        self._version_header = version_header.lower()
        queries = [httpx.URL(each).query.decode("ascii", "replace") for each in (url, control_url) if each is not None]
        self._hidden = secret_words([*headers.values(), *queries])
        if ssl_context is None and any(u is not None and u.startswith("https:") for u in (url, control_url)):
            ssl_context = ssl.create_default_context()  # once: it takes tens of milliseconds
        self._ssl_context = ssl_context
        self._now = now
        self._monotonic = monotonic
        self._own_delay_s = own_delay_s
        self._surroundings = Surroundings(monotonic=monotonic, own_delay_s=own_delay_s)
        self._latencies: deque[float] = deque(maxlen=2 * max(1, plan.size))

    def burst(self, *, golden: Output | None = None, size: int | None = None, times: int = 1) -> Burst:
        """Warm up, then send `size` requests one after the other (None: as many as the plan allows).

        It ends at the first time-out, so that no request is ever sent while another may still be in flight. A warm-up
        that gets no completed answer, or is turned down, is the burst's only sample.
        """
        at = self._now()
        workers, helpers = ({}, {}) if self._workers is None else self._workers.look()
        below = [helper for started in helpers.values() for helper in started]
        run = _Run(golden=golden, lives=tuple(workers.values()), processes=(*workers.values(), *below))
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(self._connect())
            control = None if self._control is None else stack.enter_context(self._connect())
            before = self._surroundings.begin(run.lives)
            typical_s = self._warm_up(connection, run)
            cost_s = None if typical_s is None else typical_s + self._kernel_s
            count = affordable_size(self.plan, cost_s, times=times) if size is None else max(1, size)
            while not run.ended and len(run.samples) < count:
                sample = self._sample(connection, control, run)
                run.samples.append(sample)
                run.ended = sample.outcome is Outcome.TIMEOUT
            run.facts = self._surroundings.end(before, run.answered)  # while the thread that serves us is still there
        self._latencies.extend(
            s.latency_s for s in run.samples if s.outcome is Outcome.GOOD and s.latency_s is not None
        )
        if self._kernel is not None:
            self._kernel_s = typical_control(run.samples)
        return self._report(run, at)

    @property
    def identity(self) -> Identity:
        """The input; what the server computes it on is not known here."""
        return self._identity

    def close(self) -> None:
        """Nothing is kept open from one burst to the next."""

    def _connect(self) -> Connection:
        return Connection(
            timeout_s=self.plan.timeout_s, ssl_context=self._ssl_context, now=self._now, monotonic=self._monotonic
        )

    def _warm_up(self, connection: Connection, run: _Run) -> float | None:
        """The latency to expect: of the bursts before, else of the last warm-up (the first ones may be cold)."""
        last_s = None
        for _ in range(self.plan.warmup):
            sample = self._sample(connection, None, run)
            if sample.outcome.family not in (Family.GOOD, Family.WRONG):
                run.samples.append(sample)
                run.ended = True
                break
            last_s = sample.latency_s
            self._kernel_s = self._kernel_s or (sample.control_s or 0.0)
        run.forget_cpu()
        return median(self._latencies) if self._latencies else last_s

    def _sample(self, connection: Connection, control: Connection | None, run: _Run) -> Sample:
        """One request, judged, and the control request beside it."""
        at, delay_before, cpu_before = self._now(), self._own_delay_s(), cpu_seconds(run.processes)
        began = self._monotonic()
        exchange = connection.ask(self._question)
        took_s = self._monotonic() - began
        run.add_cpu(took_s, cpu_before, cpu_seconds(run.processes))
        own_delay_s = self._own_delay_s() - delay_before
        outcome, detail = self._judge(exchange, run)
        life = self._find_life(exchange, connection, run)
        return Sample(
            at=at,
            outcome=outcome,
            latency_s=exchange.latency_s,
            first_byte_s=exchange.first_byte_s,
            connect_s=exchange.connect_s,
            control_s=self._measure_control(control, outcome, life, run),
            life=life,
            tainted=not _is_beyond_us(exchange)
            and is_tainted(own_delay_s, took_s if exchange.latency_s is None else exchange.latency_s),
            detail=detail,
        )

    def _judge(self, exchange: Exchange, run: _Run) -> tuple[Outcome, str]:
        if exchange.failure is not None or exchange.status is None:
            return exchange.failure or (Outcome.PROTOCOL_ERROR, "no status")
        run.provenance = read_provenance(exchange.headers, version_header=self._version_header, hidden=self._hidden)
        if exchange.status != self._expectation.status:
            return outcome_of_status(exchange.status), f"status {exchange.status}, expected {self._expectation.status}"
        outcome, detail, output = check_body(exchange.body, self._expectation, run.golden)
        run.output = output or run.output
        return outcome, detail

    def _measure_control(
        self, control: Connection | None, outcome: Outcome, life: str | None, run: _Run
    ) -> float | None:
        if self._kernel is None:
            return None if outcome is Outcome.TIMEOUT else self._ask_control(control, run)
        answered = outcome.family in (Family.GOOD, Family.WRONG)
        worker = next((w for w in run.lives if w.key == life or (life is None and len(run.lives) == 1)), None)
        if worker is None or not answered or run.control_ended:
            return None
        took_s = self._kernel(worker)
        run.control_ended = took_s is None  # what it cannot do now it cannot do in a moment
        return took_s

    def _ask_control(self, control: Connection | None, run: _Run) -> float | None:
        """Seconds; None when it failed. After a time-out the burst asks no more controls: they would hold it up."""
        if control is None or self._control is None or run.control_ended:
            return None
        exchange = control.ask(self._control)
        run.control_ended = exchange.failure is not None and exchange.failure[0] is Outcome.TIMEOUT
        return exchange.latency_s if exchange.status is not None and exchange.status < 400 else None

    def _find_life(self, exchange: Exchange, connection: Connection, run: _Run) -> str | None:
        """The worker that answered: by the agent's header, else by who holds the server's end of the connection.

        The header is the server's word: where the workers are known, it must name one of them.
        """
        named = read_life(exchange.headers)
        if named is not None and self._workers is None:
            return named
        if named is not None and (worker := find_named(named, run.lives)) is not None:
            return worker.key
        addresses = connection.addresses if run.lives else None
        if addresses is None or exchange.connect_s is not None:
            found = None if addresses is None else peer_life(*addresses, run.lives)
            run.peer = None if found is None else found.key
        return run.peer

    def _report(self, run: _Run, at: float) -> Burst:
        return Burst(
            target=self.target,
            canary=self.name,
            at=at,
            samples=tuple(run.samples),
            identity=self._identity,
            output=run.output,
            provenance=run.provenance if self._kernel is None else {**run.provenance, "control": "agent"},
            generation=generation_of(run.lives),
            workers_alive=None if self._workers is None else len(run.lives),
            worker_cpu=run.busiest,
            facts=run.facts,
        )


def _is_beyond_us(exchange: Exchange) -> bool:
    """Whether no delay of ours can be in its figures: stamped by the kernel, and small enough to wait in its buffer."""
    return exchange.by_kernel and len(exchange.body) <= BUFFERED_BYTES


@dataclass(slots=True, kw_only=True)
class _Run:
    """One burst while it runs.

    lives: the workers; processes: these and what is below them. peer: the life at the other end of the open connection.
    ended, control_ended: send no more.
    """

    golden: Output | None
    lives: tuple[Life, ...]
    processes: tuple[Life, ...]
    samples: list[Sample] = field(default_factory=list)
    output: Output | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    peer: str | None = None
    ended: bool = False
    control_ended: bool = False
    cpu_s: dict[Life, float] = field(default_factory=dict)
    waited_s: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def answered(self) -> tuple[Life, ...]:
        """The workers that did; all of them where nobody knows."""
        named = {sample.life for sample in self.samples}
        return tuple(life for life in self.lives if life.key in named) or self.lives

    def add_cpu(self, waited_s: float, before: Mapping[Life, float], after: Mapping[Life, float]) -> None:
        self.waited_s += waited_s
        for life in before.keys() & after.keys():
            self.cpu_s[life] = self.cpu_s.get(life, 0.0) + after[life] - before[life]

    def forget_cpu(self) -> None:
        """Warm-up is not the burst, unless it was all there was."""
        if not self.ended:
            self.cpu_s.clear()
            self.waited_s = 0.0

    @property
    def busiest(self) -> float | None:
        """CPU seconds per second of the busiest process while the burst waited; None when it could not be read."""
        return max(self.cpu_s.values()) / self.waited_s if self.cpu_s and self.waited_s > 0 else None
