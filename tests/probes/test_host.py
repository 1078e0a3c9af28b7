from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probes.host import Host, Stat, Status, below, endpoint

MIB = 2**20
TCP_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TAIL = "00000000:00000000 00:00000000 00000000  1000        0"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A recorded machine with 1024 MiB."""
    write(
        tmp_path / "proc",
        {"meminfo": "MemTotal:        1048576 kB\nMemFree: 1 kB\n", "uptime": "350735.47 234388.90\n"},
    )
    return Host(proc=tmp_path / "proc", cgroup=tmp_path / "cgroup")


V1_NONE = f"{2**63 - 4096}\n"
HERE = "3\n7\n12\n"


@pytest.mark.parametrize(
    ("membership", "files", "capacity"),
    [
        ("", {}, 1024 * MIB),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{300 * MIB}\n"}, 300 * MIB),
        ("0::/a/b\n", {"a/b/memory.max": f"{100 * MIB}\n", "a/memory.max": f"{300 * MIB}\n"}, 100 * MIB),
        ("0::/a\n", {"a/memory.max": f"{4096 * MIB}\n"}, 1024 * MIB),
        ("0::/a\n", {"a/memory.max": f"{400 * MIB}\n", "a/memory.high": f"{350 * MIB}\n"}, 350 * MIB),
        ("0::/\n", {"memory.max": f"{200 * MIB}\n", "cgroup.procs": HERE}, 200 * MIB),
        ("0::/a\n", {"unified/a/memory.max": f"{250 * MIB}\n"}, 250 * MIB),
        (
            "4:memory:/docker/x\n0::/\n",
            {"memory/docker/x/memory.limit_in_bytes": f"{150 * MIB}\n", "memory/memory.limit_in_bytes": V1_NONE},
            150 * MIB,
        ),
        (
            "4:cpu,memory:/docker/x\n",
            {"memory/memory.limit_in_bytes": f"{120 * MIB}\n", "memory/cgroup.procs": HERE},
            120 * MIB,
        ),
        (
            "4:memory:/docker/x/sub\n",
            {
                "memory/memory.limit_in_bytes": f"{120 * MIB}\n",
                "memory/sub/memory.limit_in_bytes": f"{80 * MIB}\n",
                "memory/sub/cgroup.procs": HERE,
            },
            80 * MIB,
        ),
        ("1:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "1\n"}, 1024 * MIB),
        ("0::/../worker\n", {"memory.max": "1\n", "cgroup.procs": "1\n"}, 1024 * MIB),
        ("4:memory:/docker/worker\n", {"memory/memory.limit_in_bytes": "1\n", "memory/cgroup.procs": ""}, 1024 * MIB),
        ("0::/../worker\n", {"worker/memory.max": f"{90 * MIB}\n", "worker/cgroup.procs": HERE}, 90 * MIB),
    ],
    ids=[
        "none",
        "v2_parent",
        "v2_own",
        "v2_above_ram",
        "v2_high",
        "v2_namespace",
        "v2_hybrid",
        "v1",
        "v1_container",
        "v1_container_nested",
        "no_memory",
        "v2_of_a_neighbour",
        "v1_of_a_neighbour",
        "v2_whole_tree_in_a_namespace",
    ],
)
def test_capacity_is_the_smallest_limit_above_the_process(
    host: Host, membership: str, files: dict[str, str], capacity: int
) -> None:
    """Cgroup v1 and v2, limits of parents, and containers that see only a part; never the limit of somebody else."""
    write(host.proc, {"7/cgroup": membership})
    write(host.cgroup, files)
    assert host.capacity_bytes(host.memory_cgroup(7)) == capacity


def test_what_the_machine_can_still_give(host: Host) -> None:
    """The kernel's estimate; a kernel that has none, or no /proc at all, says nothing."""
    assert host.available_bytes() is None
    write(host.proc, {"meminfo": "MemTotal:  1048576 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\n"})
    assert host.available_bytes() == 2048 * 1024
    assert Host(proc=host.proc / "nowhere").available_bytes() is None


CACHE = "inactive_anon 1\ninactive_file 3000\nactive_file 50\n"
V1_CACHE = "inactive_file 5\nhierarchical_memory_limit 9223372036854771712\ntotal_inactive_file 3000\n"


@pytest.mark.parametrize(
    ("membership", "files", "used"),
    [
        ("", {}, None),
        ("0::/a\n", {"a/memory.current": "10000\n", "a/memory.stat": CACHE}, 7000),
        (
            "0::/a/b\n",
            {"a/memory.current": "9000\n", "a/memory.stat": CACHE, "a/b/cgroup.procs": HERE},
            6000,
        ),
        ("0::/\n", {"memory.current": "10000\n", "memory.stat": CACHE, "cgroup.procs": HERE}, 7000),
        ("0::/\n", {"cgroup.procs": HERE, "memory.stat": CACHE}, None),
        ("0::/a\n", {"a/memory.current": "10000\n"}, None),
        ("0::/a\n", {"a/memory.current": "100\n", "a/memory.stat": CACHE}, 0),
        ("0::/a\n", {"a/memory.current": "\n", "a/memory.stat": CACHE}, None),
        ("0::/a\n", {"a/memory.current": "10000\n", "a/memory.stat": "cut sho"}, None),
        (
            "4:memory:/x\n0::/y\n",
            {"memory/x/memory.usage_in_bytes": "10000\n", "memory/x/memory.stat": V1_CACHE, "y/memory.current": "1"},
            7000,
        ),
        (
            "4:memory:/\n0::/\n",
            {
                "memory/memory.usage_in_bytes": "10000\n",
                "memory/memory.stat": V1_CACHE,
                "memory/cgroup.procs": HERE,
                "memory/release_agent": "",
            },
            None,
        ),
        (
            "4:memory:/docker/x\n",
            {"memory/memory.usage_in_bytes": "10000\n", "memory/memory.stat": V1_CACHE, "memory/cgroup.procs": HERE},
            7000,
        ),
        ("0::/../worker\n", {"memory.current": "1\n", "memory.stat": CACHE, "cgroup.procs": "1\n"}, None),
        ("gibberish\n4:memory\n", {"memory.current": "1\n", "memory.stat": CACHE}, None),
    ],
    ids=[
        "none",
        "v2",
        "v2_controller_of_the_parent",
        "v2_namespace",
        "v2_root",
        "v2_no_stat",
        "v2_less_than_its_cache",
        "v2_empty",
        "v2_stat_cut_short",
        "v1_hybrid",
        "v1_root",
        "v1_container",
        "v2_of_a_neighbour",
        "no_line",
    ],
)
def test_a_cgroup_holds_what_it_does_not_give_back_when_asked(
    host: Host, membership: str, files: dict[str, str], used: int | None
) -> None:
    """Page cache that nobody uses is left out; the root, whose figure would be the machine's, says nothing."""
    write(host.proc, {"7/cgroup": membership})
    write(host.cgroup, files)
    cgroup = host.memory_cgroup(7)
    assert (None if cgroup is None else cgroup.used_bytes()) == used


def test_a_worker_in_another_container_is_looked_up_where_it_sees_itself(host: Host) -> None:
    """A sidecar that shares the pid namespace sees only its own cgroups; the worker's root shows the worker's."""
    theirs = host.proc / "7/root" / host.cgroup.relative_to("/")
    write(host.proc, {"7/cgroup": "0::/../worker/sub\n"})
    write(host.cgroup, {"memory.max": f"{10 * MIB}\n", "cgroup.procs": "1\n"})
    write(
        theirs,
        {
            "memory.max": f"{500 * MIB}\n",
            "cgroup.procs": "",
            "sub/cgroup.procs": HERE,
            "sub/memory.current": "10000\n",
            "sub/memory.stat": CACHE,
        },
    )
    cgroup = host.memory_cgroup(7)
    assert cgroup is not None
    assert (cgroup.used_bytes(), host.capacity_bytes(cgroup)) == (7000, 500 * MIB)


def test_what_may_not_be_read_is_not_known() -> None:
    """A limit that is there and hidden is not the same as none."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        host = Host(proc=root / "proc", cgroup=root / "cgroup")
        write(host.proc, {"meminfo": "MemTotal: 1048576 kB\n", "7/cgroup": "0::/a\n", "7/fd/0": "", "7/limits": LIMITS})
        write(host.cgroup, {"a/memory.max": f"{10 * MIB}\n", "a/memory.current": "10000\n", "a/memory.stat": CACHE})
        with without_rights():
            assert figures(host) == [7000, 10 * MIB, 1, 1024]
        for path in ("cgroup/a/memory.max", "cgroup/a/memory.current", "proc/7/fd", "proc/7/limits"):
            (root / path).chmod(0)
        with without_rights():
            assert figures(host) == [None, None, None, None]


LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max processes             95012                95012                processes \n"
    "Max open files            1024                 1048576              files     \n"
)


def figures(host: Host) -> list[int | None]:
    cgroup = host.memory_cgroup(7)
    assert cgroup is not None
    return [cgroup.used_bytes(), host.capacity_bytes(cgroup), host.fds(7), host.fd_limit(7)]


@contextmanager
def without_rights() -> Iterator[None]:
    """Root reads whatever there is, so it is somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("line", "limit"), [("1024", 1024), ("unlimited", None)])
def test_descriptors_are_limited_by_the_soft_limit(host: Host, line: str, limit: int | None) -> None:
    """The hard one only says how far it could be raised."""
    write(host.proc, {"7/limits": LIMITS.replace("1024 ", f"{line} ")})
    assert host.fd_limit(7) == limit


def test_a_real_cgroup_says_what_its_process_holds() -> None:
    """A nested one is made for a child that takes 50 MB; where none may be made, the test is left out."""
    with nested_cgroup() as folder:
        script = "import os; kept = os.urandom(50_000_000); print(flush=True); input()"
        argv = [sys.executable, "-c", f"import os; print(flush=True); input(); {script}"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            (folder / "cgroup.procs").write_text(str(child.pid))
            before = Host().memory_cgroup(child.pid)
            assert before is not None
            assert before.folders[0] == folder
            assert len(before.folders) >= 2
            used = before.used_bytes()
            limit = next(folder / name for name in ("memory.max", "memory.limit_in_bytes") if (folder / name).exists())
            limit.write_text(str(512 * MIB))
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
            after = Host().memory_cgroup(child.pid)
            assert after is not None
            grown = after.used_bytes()
            assert used is not None
            assert grown is not None
            assert 45_000_000 < grown - used < 80_000_000
            assert Host().capacity_bytes(after) == 512 * MIB
            child.communicate("\n")


IN_A_NAMESPACE = """
import json, os, subprocess, sys
from pathlib import Path
from probes.host import Host
root, outside = Path(sys.argv[1]), int(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "none", root], check=True)
(root / "memory").mkdir()
v1 = ["mount", "-t", "cgroup", "-o", "memory", "none", root / "memory"]
if subprocess.run(v1, stderr=subprocess.DEVNULL).returncode:
    (root / "memory").rmdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", root], check=True)
host = Host(cgroup=root)
mine, theirs = host.memory_cgroup(os.getpid()), host.memory_cgroup(outside)
print(json.dumps([mine and mine.used_bytes(), theirs and theirs.used_bytes()]))
"""


def test_a_container_sees_its_own_cgroup_and_no_other(tmp_path: Path) -> None:
    """In a real cgroup namespace our cgroup is called `/`, and is not the machine's; ours here is outside of it."""
    with nested_cgroup() as folder:
        join = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(folder / "cgroup.procs")]
        inside = [
            "unshare",
            "--cgroup",
            "--mount",
            sys.executable,
            "-c",
            IN_A_NAMESPACE,
            str(tmp_path),
            str(os.getpid()),
        ]
        found = subprocess.run([*join, *inside], capture_output=True, text=True, check=False)
        if "unshare: " in found.stderr:
            pytest.skip(f"no namespace may be made here: {found.stderr.strip()}")
        assert found.returncode == 0, found.stderr
        mine, theirs = json.loads(found.stdout)
        assert theirs is None
        assert 1_000_000 < mine < 200_000_000, "the child alone is in it"


@contextmanager
def nested_cgroup() -> Iterator[Path]:
    """A new cgroup below our own that has a memory controller, of whichever version."""
    mine = Host().memory_cgroup(os.getpid())
    if mine is None:
        pytest.skip("no memory cgroup")
    folder = mine.folders[0] / f"watchdog-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no cgroup may be made here")
    try:
        if not any((folder / name).exists() for name in ("memory.current", "memory.usage_in_bytes")):
            pytest.skip("the memory controller is not passed down")
        yield folder
    finally:
        folder.rmdir()


def test_the_real_machine_has_a_capacity_and_an_uptime() -> None:
    """Whatever cgroup version it runs."""
    host = Host()
    assert (host.capacity_bytes(host.memory_cgroup(1)) or 0) > 64 * MIB
    assert (Host().uptime_s() or 0) > 0


@pytest.mark.parametrize("name", ["python3", "a b", "x) R 1 (y", ")", ""])
def test_a_stat_line_is_read_from_its_last_parenthesis(host: Host, name: str) -> None:
    """The name is whatever a process calls itself."""
    fields = ["S", "41", *["0"] * 17, "987654", "0", "0"]
    write(host.proc, {"42/stat": f"42 ({name}) {' '.join(fields)}\n"})
    stat = host.stat(42)
    assert stat is not None
    assert (stat.pid, stat.parent_pid, stat.start_ticks, stat.is_running) == (42, 41, 987654, True)
    assert host.running().keys() == {42}


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        pytest.param({7: 1, 8: 7, 9: 8, 30: 1}, {7: {8, 9}}, id="however deep, and no stranger"),
        pytest.param({7: 1, 8: 7, 20: 8, 21: 20}, {7: {8}, 20: {21}}, id="a worker below another is its own"),
        pytest.param({7: 1, 8: 9, 9: 8}, {7: set()}, id="a circle, from a pid that was reused"),
        pytest.param({7: 7, 8: 7}, {7: {8}}, id="its own parent, likewise"),
        pytest.param({8: 1}, {7: set()}, id="a worker that is gone"),
    ],
)
def test_what_a_worker_started_is_below_it(parents: dict[int, int], expected: dict[int, set[int]]) -> None:
    """Each process is of the nearest worker above it alone."""
    running = {pid: Stat(pid=pid, state="S", parent_pid=parent, start_ticks=1) for pid, parent in parents.items()}
    assert below(expected.keys(), running) == expected


def test_what_is_gone_reads_as_unknown(tmp_path: Path) -> None:
    """A process may end between any two reads; a file may be cut short."""
    host = Host(proc=tmp_path / "nowhere", cgroup=tmp_path / "nowhere")
    assert host.pids() == []
    assert host.stat(1) is None
    assert host.sockets(1) == set()
    assert host.listeners() == {}
    assert host.status(1) == Status(anon_bytes=None, threads=None)
    assert (host.fds(1), host.fd_limit(1), host.memory_cgroup(1), host.capacity_bytes(None)) == (None, None, None, None)
    assert host.uptime_s() is None
    write(host.proc, {"1/stat": "1 (cut) S 0", "1/status": "Name: kthread\n"})
    assert host.stat(1) is None
    assert host.status(1) == Status(anon_bytes=None, threads=None)


def test_what_is_swapped_out_is_still_held(host: Host) -> None:
    """Else a leak would be over as soon as it is swapped, and the worker well while the machine thrashes."""
    write(host.proc, {"7/status": "RssAnon:\t  300 kB\nVmSwap:\t  200 kB\nThreads:\t3\n"})
    assert host.status(7) == Status(anon_bytes=500 * 1024, threads=3, swapped_bytes=200 * 1024)


def test_listeners_are_tcp_and_unix_sockets_that_accept(host: Host) -> None:
    """Connected sockets are none, and only TCP has a port."""
    tcp = f"{TCP_HEADER}   0: 0100007F:1F90 00000000:0000 0A {TAIL} 111 1\n"
    tcp += f"   1: 0100007F:1F90 0100007F:D431 01 {TAIL} 222 1\n"
    tcp6 = f"{TCP_HEADER}   0: {'0' * 32}:1F91 {'0' * 32}:0000 0A {TAIL} 333 1\n"
    unix = (
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 444 /run/app.sock\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 555\n"
    )
    write(host.proc, {"net/tcp": tcp, "net/tcp6": tcp6, "net/unix": unix})
    assert host.listeners() == {111: 8080, 333: 8081, 444: None}


def test_a_connection_is_found_by_both_its_ends(host: Host) -> None:
    """Not by one of them, and never the row of our own side; one that is not accepted (inode 0) belongs to nobody."""
    rows = [
        f"0: 0100007F:1F90 0100007F:D431 01 {TAIL} 222 1",
        f"1: 0100007F:D431 0100007F:1F90 01 {TAIL} 223 1",
        f"2: 0100007F:1F90 0100007F:D432 01 {TAIL} 0 1",
    ]
    write(host.proc, {"net/tcp": TCP_HEADER + "\n".join(rows) + "\n"})
    server, ours, waiting = (endpoint("127.0.0.1", port) for port in (0x1F90, 0xD431, 0xD432))
    assert server is not None
    assert ours is not None
    assert waiting is not None
    assert host.connections(local=server, remote=ours) == {222}
    assert host.connections(local=server, remote=waiting) == set()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("localhost", "127.0.0.1", False),
    ],
)
def test_addresses_are_compared_as_addresses(one: str, other: str, same: bool) -> None:
    """However they are written."""
    assert (endpoint(one, 1) == endpoint(other, 1)) is same
