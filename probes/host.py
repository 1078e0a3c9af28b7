"""What Linux tells about processes, sockets and memory limits, read from /proc and the cgroup file system.

Every reader answers None or an empty set when the process is gone or not ours to see; none raises.
Formats: proc_pid_stat(5), proc_net(5), and the kernel's cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from probes.cgroup import MemoryCgroup, find_memory_cgroup, read_kernel

IpAddress = IPv4Address | IPv6Address
Endpoint = tuple[IpAddress, int]

_LISTEN = "0A"  # TCP_LISTEN of include/net/tcp_states.h
_UNIX_LISTENING = 0x10000  # __SO_ACCEPTCON of include/uapi/linux/net.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """state: one letter (Z is a zombie). start_ticks: clock ticks since boot."""

    pid: int
    state: str
    parent_pid: int
    start_ticks: int

    @property
    def is_running(self) -> bool:
        return self.state not in "ZXx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """anon_bytes: private memory without mapped files and shared memory, RssAnon, and what of it is in swap, VmSwap.
    swapped_bytes: the latter alone."""

    anon_bytes: int | None
    threads: int | None
    swapped_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine as seen from here; other roots are for recorded trees."""

    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")

    def pids(self) -> list[int]:
        try:
            return sorted(int(entry.name) for entry in self.proc.iterdir() if entry.name.isdecimal())
        except OSError:
            return []

    def stat(self, pid: int) -> Stat | None:
        text = _read(self.proc / str(pid) / "stat")
        # The name in parentheses may hold spaces and parentheses itself; what follows the last one may not.
        fields = text.rpartition(")")[2].split()
        if len(fields) < 20:
            return None
        return Stat(pid=pid, state=fields[0], parent_pid=int(fields[1]), start_ticks=int(fields[19]))

    def running(self) -> dict[int, Stat]:
        stats = (self.stat(pid) for pid in self.pids())
        return {s.pid: s for s in stats if s is not None and s.is_running}

    def command_line(self, pid: int) -> list[str]:
        return _read(self.proc / str(pid) / "cmdline").split("\0")

    def sockets(self, pid: int) -> set[int]:
        """Inodes of the sockets that the process has open."""
        found: set[int] = set()
        try:
            entries = list((self.proc / str(pid) / "fd").iterdir())
        except OSError:
            return found
        for entry in entries:
            try:
                match = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
            except OSError:
                continue
            if match is not None:
                found.add(int(match[1]))
        return found

    def listeners(self) -> dict[int, int | None]:
        """Port by inode of every listening socket; None for one on a path."""
        found: dict[int, int | None] = {}
        for row in self._tcp():
            if row[3] == _LISTEN:
                found[int(row[9])] = int(row[1].rpartition(":")[2], 16)
        for line in _read(self.proc / "net" / "unix").splitlines()[1:]:
            fields = line.split()
            if int(fields[3], 16) & _UNIX_LISTENING:
                found[int(fields[6])] = None
        return found

    def connections(self, *, local: Endpoint, remote: Endpoint) -> set[int]:
        """Inodes of the TCP sockets with these two ends, without those not accepted yet or closed (inode 0)."""
        rows = (row for row in self._tcp() if row[3] != _LISTEN and row[9] != "0")
        return {int(row[9]) for row in rows if _endpoint(row[1]) == local and _endpoint(row[2]) == remote}

    def status(self, pid: int) -> Status:
        """What /proc/PID/status tells; of a process that is gone, nothing."""
        text = _read(self.proc / str(pid) / "status")
        anon_kb, swapped_kb = _number_after("RssAnon:", text), _number_after("VmSwap:", text) or 0
        anon_bytes = None if anon_kb is None else (anon_kb + swapped_kb) * 1024
        threads = _number_after("Threads:", text)
        return Status(anon_bytes=anon_bytes, threads=threads, swapped_bytes=swapped_kb * 1024)

    def namespace_pids(self, pid: int) -> tuple[int, ...]:
        """The process's pid in each pid namespace it is in, ours first, its own container's last; () when unknown."""
        match = re.search(r"^NSpid:((?:\s+\d+)+)$", _read(self.proc / str(pid) / "status"), re.MULTILINE)
        return () if match is None else tuple(int(each) for each in match[1].split())

    def fds(self, pid: int) -> int | None:
        """How many file descriptors are open; None when the process is gone or another user's."""
        try:
            with os.scandir(self.proc / str(pid) / "fd") as entries:
                return sum(1 for _ in entries)
        except OSError:
            return None

    def fd_limit(self, pid: int) -> int | None:
        """How many there may be (the soft limit of RLIMIT_NOFILE); None also for no limit."""
        return _number_after("Max open files", _read(self.proc / str(pid) / "limits"))

    def memory_cgroup(self, pid: int) -> MemoryCgroup | None:
        """See `find_memory_cgroup`."""
        process = self.proc / str(pid)
        own = process / "root" / self.cgroup.relative_to(self.cgroup.anchor)
        return find_memory_cgroup(pid, _read(process / "cgroup"), mounts=(self.cgroup, own))

    def available_bytes(self) -> int | None:
        """What could still be had without swapping (MemAvailable of /proc/meminfo), as the kernel estimates it."""
        available_kb = _number_after("MemAvailable:", _read(self.proc / "meminfo"))
        return None if available_kb is None else available_kb * 1024

    def capacity_bytes(self, cgroup: MemoryCgroup | None) -> int | None:
        """What the memory of a process in this cgroup can grow to: the smallest limit, at most the machine's memory.

        A limit above what can be seen from here does not count. None when a limit may not be read.
        """
        total_kb = _number_after("MemTotal:", _read(self.proc / "meminfo"))
        limits = [] if total_kb is None else [total_kb * 1024]
        try:
            limits += cgroup.limits() if cgroup is not None else []
        except PermissionError:
            return None
        return min(limits, default=None)

    def uptime_s(self) -> float | None:
        """Seconds since boot."""
        first = _read(self.proc / "uptime").split()[:1]
        return float(first[0]) if first else None

    def _tcp(self) -> Iterator[list[str]]:
        for name in ("tcp", "tcp6"):
            for line in _read(self.proc / "net" / name).splitlines()[1:]:
                yield line.split()


def below(workers: Collection[int], running: Mapping[int, Stat]) -> dict[int, set[int]]:
    """Of each worker the processes that it started, and those that these started, by pid.

    A worker below another one is none of these, nor is what is below it. Of a process whose parent has ended nobody
    knows who started it.
    """
    children: dict[int, list[int]] = {}
    for stat in running.values():
        if stat.pid not in workers:
            children.setdefault(stat.parent_pid, []).append(stat.pid)
    found: dict[int, set[int]] = {}
    for worker in workers:
        pids, waiting = set[int](), [worker]
        while waiting:
            started = set(children.get(waiting.pop(), ())) - pids  # a pid that was reused meanwhile makes no circle
            pids.update(started)
            waiting += started
        found[worker] = pids
    return found


def endpoint(host: str, port: int) -> Endpoint | None:
    """An address as sockets give it; None when `host` is no IP address."""
    try:
        return _plain(ip_address(host.partition("%")[0])), port
    except ValueError:
        return None


def _endpoint(text: str) -> Endpoint:
    """From the kernel's `0100007F:1F90`: 32-bit words in the machine's byte order, port in hexadecimal."""
    address, _, port = text.partition(":")
    words = (address[i : i + 8] for i in range(0, len(address), 8))
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return _plain(IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)), int(port, 16)


def _plain(address: IpAddress) -> IpAddress:
    """A server on [::] sees 127.0.0.1 as ::ffff:127.0.0.1."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _number_after(name: str, text: str) -> int | None:
    """The first number of the line that begins with this name."""
    match = re.search(rf"^{re.escape(name)}\s+(\d+)\b", text, re.MULTILINE)
    return None if match is None else int(match[1])


def _read(path: Path) -> str:
    try:
        return read_kernel(path)
    except OSError:
        return ""
