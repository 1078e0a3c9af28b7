from __future__ import annotations

from pathlib import Path

import pytest

from probes.host import Host, endpoint

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


@pytest.mark.parametrize(
    ("membership", "limits", "capacity"),
    [
        ("", {}, 1024 * MIB),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{300 * MIB}\n"}, 300 * MIB),
        ("0::/a/b\n", {"a/b/memory.max": f"{100 * MIB}\n", "a/memory.max": f"{300 * MIB}\n"}, 100 * MIB),
        ("0::/a\n", {"a/memory.max": f"{4096 * MIB}\n"}, 1024 * MIB),
        ("0::/\n", {"memory.max": f"{200 * MIB}\n"}, 200 * MIB),
        ("0::/../../host/path\n", {"memory.max": f"{200 * MIB}\n"}, 200 * MIB),
        (
            "4:memory:/docker/x\n0::/\n",
            {
                "memory/docker/x/memory.limit_in_bytes": f"{150 * MIB}\n",
                "memory/memory.limit_in_bytes": f"{2**63 - 4096}",
            },
            150 * MIB,
        ),
        ("4:cpu,memory:/gone\n", {"memory/memory.limit_in_bytes": f"{120 * MIB}\n"}, 120 * MIB),
        ("1:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "1\n"}, 1024 * MIB),
    ],
    ids=["none", "v2_parent", "v2_own", "v2_above_ram", "v2_root", "v2_outside", "v1", "v1_container", "no_memory"],
)
def test_capacity_is_the_smallest_limit_above_the_process(
    host: Host, membership: str, limits: dict[str, str], capacity: int
) -> None:
    """Cgroup v1 and v2, limits of parents, and containers that see only their own root."""
    write(host.proc, {"7/cgroup": membership})
    write(host.cgroup, limits)
    assert host.capacity_bytes(7) == capacity


def test_the_real_machine_has_a_capacity_and_an_uptime() -> None:
    """Whatever cgroup version it runs."""
    assert (Host().capacity_bytes(1) or 0) > 64 * MIB
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


def test_what_is_gone_reads_as_unknown(tmp_path: Path) -> None:
    """A process may end between any two reads; a file may be cut short."""
    host = Host(proc=tmp_path / "nowhere", cgroup=tmp_path / "nowhere")
    assert host.pids() == []
    assert host.stat(1) is None
    assert host.sockets(1) == set()
    assert host.listeners() == {}
    assert host.anon_bytes(1) is None
    assert host.capacity_bytes(1) is None
    assert host.uptime_s() is None
    write(host.proc, {"1/stat": "1 (cut) S 0", "1/status": "Name: kthread\n"})
    assert host.stat(1) is None
    assert host.anon_bytes(1) is None


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
