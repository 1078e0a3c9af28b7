"""The memory cgroup of a process: what it holds, and the limits on it and on those above it.

Formats: the kernel's cgroup-v2.rst and cgroup-v1/memory.rst, cgroups(7), cgroup_namespaces(7). Version 2 is looked for
where systemd and container runtimes mount it (/sys/fs/cgroup, or `unified` below it), the memory controller of
version 1 in `memory` below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 1 << 60  # version 1 writes "no limit" as about 2**63
_ONLY_ON_ROOT = "release_agent"  # a file that of all cgroups of version 1 the true root alone has


@dataclass(frozen=True, slots=True)
class _Files:
    used: str
    idle_cache: str  # a line of memory.stat: page cache that is taken back first, with that of the cgroups below
    limits: tuple[str, ...]


_V1 = _Files("memory.usage_in_bytes", "total_inactive_file", ("memory.limit_in_bytes",))
# Above memory.high the kernel reclaims and holds the group up: for memory that cannot be given back, an end too.
_V2 = _Files("memory.current", "inactive_file", ("memory.max", "memory.high"))


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """folders: of the process's cgroup and of those above it as far as they can be seen from here, innermost first."""

    folders: tuple[Path, ...]
    files: _Files

    def used_bytes(self) -> int | None:
        """What is charged to the cgroup, less the page cache that it gives back when asked.

        Where the memory controller is not enabled in the process's own cgroup, the nearest one above answers for it.
        None when that is the root, which stands for the whole machine, or when there is none, or it may not be read.
        """
        for folder in self.folders:
            try:
                used = int(read_kernel(folder / self.files.used))
                if folder == self.folders[-1] and (folder / _ONLY_ON_ROOT).exists():
                    return None
                stat = dict(line.split() for line in read_kernel(folder / "memory.stat").splitlines())
                return max(0, used - int(stat[self.files.idle_cache]))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError):
                return None
        return None

    def limits(self) -> list[int]:
        """Every limit that is set, in bytes. Raises PermissionError where one may not be read."""
        found = []
        for folder in self.folders:
            for name in self.files.limits:
                try:
                    text = read_kernel(folder / name).strip()
                except PermissionError:
                    raise
                except OSError:
                    continue
                if text.isdecimal() and int(text) < _NO_LIMIT:
                    found.append(int(text))
        return found


def read_kernel(path: Path) -> str:
    """A file of /proc or the like, without the layers of `read_text`, which cost more than the file. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return file.read().decode(errors="replace")


def find_memory_cgroup(pid: int, membership: str, *, mounts: tuple[Path, ...]) -> MemoryCgroup | None:
    """The cgroup that the process's memory is charged to; None when it has none or it cannot be seen from here.

    membership: the text of /proc/PID/cgroup. mounts: where cgroups are mounted, as we see it; then as the process does,
    for one in another container.
    """
    v1 = v2 = None
    for line in membership.splitlines():
        hierarchy, controllers, place = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            v1 = place
        elif hierarchy == "0":
            v2 = place
    # a controller is in one version only, while every process has a line of version 2
    files, path, below = (_V1, v1, ("memory",)) if v1 is not None else (_V2, v2, ("", "unified"))
    if path is None:
        return None
    places = (_folders(mount / name, path, pid) for mount in mounts for name in below)
    return next((MemoryCgroup(folders, files) for folders in places if folders), None)


def _folders(root: Path, path: str, pid: int) -> tuple[Path, ...]:
    """Of a cgroup and all above it; empty when it is not below this root.

    A container sees its own part of the hierarchy alone. Then the path may begin with what is not there, or, in a
    namespace, with `..`; a shorter one counts if the process is said to be in it.
    """
    parts = [part for part in path.split("/") if part]
    for begin in range(len(parts) + 1):
        inner = parts[begin:]
        folder = root.joinpath(*inner)
        if ".." not in inner and ((begin == 0 and parts and _is_there(folder)) or _holds(folder, pid)):
            return (folder, *(root.joinpath(*inner[:depth]) for depth in range(len(inner) - 1, -1, -1)))
    return ()


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:
        return False


def _holds(folder: Path, pid: int) -> bool:
    try:
        return str(pid) in read_kernel(folder / "cgroup.procs").split()
    except OSError:
        return False
