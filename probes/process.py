"""The processes that serve a target: which they are, whether they still live, and how much memory they hold.

A worker's memory and CPU time are its own and those of the processes below it that are no workers themselves: engines,
ranks and pools hold what a server serves. So a master is counted only where it is the worker.

How workers are found (`workers = "auto"`), with what each rule is there for:

- `port`: the processes that hold the listening socket. A holder that another holder started is that one's worker:
  gunicorn's and uvicorn's master (`--workers 2`) open the socket and hand it to their children. A single process, or
  several that opened the port each for itself (SO_REUSEPORT), are workers themselves.
- `pid_file`: the children that hold a listening socket of the named process, else the process itself. So a master is
  replaced by its workers, while a plain script, or a single uvicorn with helper processes, stands for itself.
- `parent_pid`: the same; but where no child shares a socket, its children, as the word parent says. Python's own helper
  (multiprocessing's resource tracker) is nobody's worker.

`self` takes the process that was named (for a port: the topmost holder), `children` its children. A server that forks
helpers after it opened its socket (a process pool) needs `self`: they hold the socket too.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from probes.agent import AgentClient
from probes.gpu.usage import TargetGpu
from probes.host import Host, Stat, below, endpoint
from probes.messages import Life, MemorySample

_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.semaphore_tracker")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """How to find a target's processes: exactly one of the first three, else ValueError."""

    pid_file: Path | None = None
    port: int | None = None
    parent_pid: int | None = None
    workers: Literal["auto", "self", "children"] = "auto"

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.pid_file, self.port, self.parent_pid)) != 1:
            raise ValueError("exactly one of pid_file, port and parent_pid is needed")


class WorkerWatch:
    """A target's workers over time. May be asked from several threads.

    gpu: figures of the workers on the GPU; None on a machine or for a target without one. agents: asked for what only
    the workers themselves know; None asks nobody.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        target: str,
        gpu: TargetGpu | None = None,
        agents: AgentClient | None = None,
        host: Host | None = None,
    ) -> None:
        self._spec = spec
        self._target = target
        self._gpu = gpu
        self._agents = agents
        self._host = host or Host()
        self._slots: dict[int, Life] = {}
        self._trimmed: dict[Life, int] = {}
        self._used: dict[Life, float] = {}  # CPU seconds of the workers and all below them,
        self._used_at = 0.0  # and when that was
        self._lock = threading.Lock()

    def find(self) -> dict[int, Life]:
        """Workers by slot; empty when there are none. A life keeps its slot, a new one takes the lowest free one."""
        return self._find(self._host.running())

    def _find(self, running: dict[int, Stat]) -> dict[int, Life]:
        found = find_workers(self._spec, self._host, running)
        with self._lock:
            kept = {slot: life for slot, life in self._slots.items() if life in found}
            free = (slot for slot in range(len(found) + len(kept)) if slot not in kept)
            new = sorted(found - set(kept.values()), key=lambda life: (life.start_ticks, life.pid))
            self._slots = dict(sorted({**kept, **dict(zip(free, new, strict=False))}.items()))
            return dict(self._slots)

    def known(self) -> dict[int, Life]:
        """The workers found last, by slot, while every one of them still runs; else those that `find` finds.

        A look at each worker instead of at every process of the machine: for whoever must not take long. A worker that
        was added since is in it once somebody has looked; every burst does.
        """
        with self._lock:
            known = dict(self._slots)
        return known if known and all(is_alive(life, host=self._host) for life in known.values()) else self.find()

    def generation(self) -> str | None:
        """See `generation_of`."""
        return generation_of(self.find().values())

    def sample(self, now: float) -> list[MemorySample]:
        """Memory of every worker at `now`; empty when there are none. A figure that cannot be read is None."""
        workers, helpers = self.look()
        loads = self._loads(helpers)
        with self._lock:
            trimmed, self._trimmed = self._trimmed, {}
        samples = [
            replace(
                self._measure(slot, life, helpers[life], now), load=loads.get(life), trimmed_bytes=trimmed.get(life)
            )
            for slot, life in workers.items()
        ]
        if self._agents is not None and samples:  # first: what the worker's own allocator says need not be estimated
            samples = self._agents.complete(samples, workers)
        return samples if self._gpu is None or not samples else self._gpu.complete(samples, workers, helpers)

    def helpers_bytes(self, life: Life) -> int:
        """The part of the worker's host memory of which its agent does not tell: what the processes below it hold now,
        and what of its own is swapped out."""
        _, helpers = self.look()
        return self._anon_bytes(helpers.get(life, ())) + self._host.status(life.pid).swapped_bytes

    def look(self) -> tuple[dict[int, Life], dict[Life, list[Life]]]:
        """The workers by slot, and of each the processes below it: one look at every process of the machine."""
        running = self._host.running()
        workers = self._find(running)
        started = below({life.pid for life in workers.values()}, running)
        return workers, {life: [_life(running[pid]) for pid in started[life.pid]] for life in workers.values()}

    def _anon_bytes(self, helpers: Iterable[Life]) -> int:
        """Host memory of them together; one that is gone or cannot be read is left out."""
        return sum(self._host.status(helper.pid).anon_bytes or 0 for helper in helpers)

    def note_trim(self, life: Life, given_back_bytes: int) -> None:
        """The worker's next sample says that it follows a trim, which explains why it is lower."""
        with self._lock:
            self._trimmed[life] = given_back_bytes

    def _loads(self, helpers: Mapping[Life, list[Life]]) -> dict[Life, float]:
        """CPU seconds per second of each worker and all below it since the last call; none for a worker that is new.

        What is below it counts from the second call on that meets it, and not after the last one.
        """
        at = time.monotonic()
        used = cpu_seconds(each for life, started in helpers.items() for each in (life, *started))
        with self._lock:
            before, self._used = self._used, used
            began, self._used_at = self._used_at, at
        spent = {each: cpu_s - before[each] for each, cpu_s in used.items() if each in before and at > began}
        return {
            life: sum(spent.get(each, 0.0) for each in (life, *started)) / (at - began)
            for life, started in helpers.items()
            if life in spent
        }

    def _measure(self, slot: int, life: Life, helpers: Iterable[Life], now: float) -> MemorySample:
        host, pid = self._host, life.pid
        status, cgroup, uptime = host.status(pid), host.memory_cgroup(pid), host.uptime_s()
        age = None if uptime is None else uptime - life.start_ticks / os.sysconf("SC_CLK_TCK")
        known = MemorySample(
            target=self._target,
            slot=slot,
            life=life.key,
            at=now,
            uptime_s=age if age is not None and age >= 0 else None,
        )
        full = replace(
            known,
            host_anon_bytes=None if status.anon_bytes is None else status.anon_bytes + self._anon_bytes(helpers),
            cgroup_bytes=None if cgroup is None else cgroup.used_bytes(),
            capacity_bytes=host.capacity_bytes(cgroup),
            available_bytes=host.available_bytes(),
            fds=host.fds(pid),
            fd_limit=host.fd_limit(pid),
            threads=status.threads,
        )
        # asked last: else the figures may be those of the pid's next owner
        return full if is_alive(life, host=host) else known


def life_of(pid: int, *, host: Host | None = None) -> Life | None:
    """The life that has this pid now; None when no process has, or only a zombie."""
    stat = (host or Host()).stat(pid)
    return None if stat is None or not stat.is_running else _life(stat)


def find_named(name: str, candidates: Iterable[Life], *, host: Host | None = None) -> Life | None:
    """Which of the candidates calls itself PID@START_TICKS; None when none does.

    Inside a container a process sees another pid, but the same start.
    """
    host = host or Host()
    pid, _, ticks = name.partition("@")
    young = [life for life in candidates if str(life.start_ticks) == ticks]
    return next(
        (life for life in young if pid == str(life.pid) or pid in map(str, host.namespace_pids(life.pid))), None
    )


def is_alive(life: Life, *, host: Host | None = None) -> bool:
    """Whether this very process still runs: another one with its pid does not count, nor does a zombie."""
    return life_of(life.pid, host=host) == life


def generation_of(lives: Iterable[Life]) -> str | None:
    """12 hex digits that change whenever the set of lives does; None for an empty set."""
    keys = sorted(life.key for life in lives)
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:12] if keys else None


def cpu_seconds(lives: Iterable[Life]) -> dict[Life, float]:
    """CPU time each life has used, in seconds to the nanosecond; one that is gone is left out.

    By the process's CPU clock: utime and stime of /proc/PID/stat count in steps of 10 ms, longer than many a request.
    Its number is built as clock_getcpuclockid(3) does.
    """
    found: dict[Life, float] = {}
    for life in lives:
        try:
            found[life] = time.clock_gettime((~life.pid << 3) | 2)
        except OSError:
            continue
    return found


def peer_life(
    local: tuple[str, int], peer: tuple[str, int], candidates: Iterable[Life], *, host: Host | None = None
) -> Life | None:
    """Which of the candidates holds the other end of a connection on this machine.

    local, peer: our own and the server's (host, port). None on any doubt: another machine or network namespace, a
    connection that is not accepted yet or closed, a proxy in between, or a socket that several processes hold.
    """
    host = host or Host()
    ours, theirs = endpoint(*local), endpoint(*peer)
    if ours is None or theirs is None:
        return None
    inodes = host.connections(local=theirs, remote=ours)
    holders = [life for life in candidates if inodes & host.sockets(life.pid) and is_alive(life, host=host)]
    return holders[0] if len(inodes) == 1 and len(holders) == 1 else None


def find_workers(spec: ProcessSpec, host: Host, running: dict[int, Stat]) -> set[Life]:
    """The workers among those that run, by the rules at the top of this file."""
    if spec.port is not None:
        inodes = {inode for inode, port in host.listeners().items() if port == spec.port}
        holders = {pid for pid in running if inodes & host.sockets(pid)} if inodes else set[int]()
        named = {pid for pid in holders if running[pid].parent_pid not in holders}
        sharing = {pid for pid in holders if running[pid].parent_pid in named}
    else:
        pid = _read_pid(spec.pid_file) if spec.parent_pid is None else spec.parent_pid
        named = {pid} if pid is not None and pid in running else set[int]()
        sharing = _children_sharing_a_socket(named, running, host)
    if spec.workers == "self":
        chosen = named
    elif spec.workers == "children":
        chosen = _children(named, running, host)
    elif sharing:
        # A port's topmost holders without children of their own serve too.
        chosen = sharing | {pid for pid in named if not any(running[s].parent_pid == pid for s in sharing)}
    else:
        chosen = (_children(named, running, host) if spec.parent_pid is not None else set()) or named
    return {_life(running[pid]) for pid in chosen}


def _children(parents: set[int], running: dict[int, Stat], host: Host) -> set[int]:
    children = {stat.pid for stat in running.values() if stat.parent_pid in parents}
    return {pid for pid in children if not any(h in word for word in host.command_line(pid) for h in _HELPERS)}


def _children_sharing_a_socket(parents: set[int], running: dict[int, Stat], host: Host) -> set[int]:
    children = _children(parents, running, host)
    if not children:
        return set()
    listening = host.listeners().keys()
    opened = {inode for parent in parents for inode in host.sockets(parent) & listening}
    return {pid for pid in children if opened & host.sockets(pid)}


def _read_pid(path: Path | None) -> int | None:
    """The first line of a pid file; None while there is no file or no number in it."""
    try:
        text = path.read_text(errors="replace") if path is not None else ""
    except OSError:
        return None
    first = text.strip().partition("\n")[0].strip()
    return int(first) if first.isdecimal() and len(first) <= 10 else None


def _life(stat: Stat) -> Life:
    return Life(pid=stat.pid, start_ticks=stat.start_ticks)
