"""The protocol between the daemon and its isolated worker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog_agent import wire

MESSAGES = [
    wire.Load(model="m.pt2", input={"shape": [1, 16], "seed": 0}, device="cpu", folder="/srv", weights=None),
    wire.Burst(warmup=1, size=10, values=1024, top_k=5, control=True),
    wire.Profile(steps=20),
    wire.Stop(),
    wire.Loaded(
        life="1@2",
        model_load_s=0.5,
        input_hash="ab",
        shapes="(1, 16)",
        dtype="float32",
        gpu_type=None,
        provenance={"torch": "2.9"},
        kernel="gemm 512 float32 cpu",
    ),
    wire.Timed(latency_s=0.01, device_s=None),
    wire.Timed(latency_s=0.01, control_s=0.001),
    wire.Measured(
        output=wire.Summary(
            content_hash="ab",
            shape=[2],
            finite=False,
            count=2,
            mean=1.0,
            std=0.0,
            low=1.0,
            high=1.0,
            values=[1.0, float("inf")],
            top_k=[1],
        ),
        facts={"host_anon_bytes": 1e8},
    ),
    wire.Measured(output=None, facts={}),
    wire.Profiled(
        steps=20,
        step_s=0.1,
        ops=[wire.Op(name="aten::mm", calls_per_step=2.0, self_s=0.1, self_mad_s=0.0)],
        environment={},
    ),
    wire.Failed(error=wire.CUDA_FAULT, detail="device-side assert"),
]


def _line(**changes: object) -> bytes:
    return json.dumps({"v": 1, "kind": "timed", "latency_s": 1.0, "device_s": None} | changes).encode()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_message_survives_the_wire(message: wire.Message) -> None:
    """What is sent is what is received, down to the types of nested parts."""
    line = wire.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert wire.decode(line) == message


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not JSON"),
        (b"noise", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a message"),
        (b"{}", "not a message"),
        (_line(v=2), "protocol 2, this side speaks 1"),
        (_line(v="1"), "protocol '1'"),
        (_line(kind="dance"), "unknown kind 'dance'"),
        (_line(kind=None), "unknown kind None"),
        (_line(kind=["timed"]), "unknown kind"),
        (_line(latency_s="fast"), "timed.latency_s: unexpected str"),
        (_line(latency_s=True), "timed.latency_s: unexpected bool"),
        (_line(latency_s=None), "timed.latency_s: unexpected NoneType"),
        (_line(extra=1), "timed: fields device_s, extra, latency_s"),
        (b'{"v": 1, "kind": "timed"}', "timed: fields none"),
        (b'{"v": 1, "kind": "measured", "output": {"shape": 1}, "facts": {}}', "measured.output: fields shape"),
        (b'{"v": 1, "kind": "measured", "output": null, "facts": {"a": "b"}}', "measured.facts: unexpected str"),
    ],
)
def test_what_is_no_message_is_refused_by_name(line: bytes, why: str) -> None:
    """Garbage, another version and wrong fields each raise WireError that says which it was."""
    with pytest.raises(wire.WireError) as caught:
        wire.decode(line)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_field_that_has_a_default_may_be_missing() -> None:
    """Who does not know it yet does not send it; one that is needed is missed all the same."""
    assert wire.decode(_line()) == wire.Timed(latency_s=1.0)
    assert wire.decode(b'{"v": 1, "kind": "burst", "warmup": 1, "size": 2, "values": 3}') == wire.Burst(
        warmup=1, size=2, values=3, top_k=0, control=False
    )


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_no_line_does_worse_than_a_wire_error(line: bytes) -> None:
    """Whatever comes down the pipe, decoding answers or raises WireError."""
    with contextlib.suppress(wire.WireError):
        wire.decode(line)


def test_long_messages_are_not_sent() -> None:
    """The limit is on the line; what JSON cannot hold is refused as well."""
    load = wire.Load(model="m" * 1000, input={}, device="cpu", folder="/")
    with pytest.raises(wire.WireError, match=r"load takes 1\d+ bytes, at most 500"):
        wire.encode(load, limit=500)
    with pytest.raises(wire.WireError, match="cannot write load"):
        wire.encode(wire.Load(model="m", input={"shape": {1, 2}}, device="cpu", folder="/"))


@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b), max_size=8), st.data())
def test_lines_are_cut_the_same_however_they_arrive(lines: list[bytes], data: st.DataObject) -> None:
    """Any way of cutting the stream into pieces gives the same lines."""
    stream = b"".join(line + b"\n" for line in lines)
    buffer, got, at = wire.Lines(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        got += buffer.feed(stream[at : at + size])
        at += size
    assert got == lines


def test_a_line_without_end_is_refused() -> None:
    """A stream that never ends its line cannot fill the memory."""
    buffer = wire.Lines(limit=100)
    assert buffer.feed(b"x" * 100) == []
    with pytest.raises(wire.WireError, match="more than 100 bytes"):
        buffer.feed(b"x")
    with pytest.raises(wire.WireError, match="more than 100 bytes"):
        wire.Lines(limit=100).feed(b"x" * 101 + b"\n")


def test_a_request_fits_the_buffer_of_a_pipe() -> None:
    """Sending to a hung worker never blocks: Linux buffers 64 KiB, and one request is in flight at most."""
    assert wire.MAX_REQUEST_BYTES <= 65536 // 2


def test_the_daemon_gets_no_torch_with_the_protocol() -> None:
    """Importing the protocol, or the middleware, loads no torch and nothing outside the standard library."""
    code = (
        "import sys; import watchdog_agent.wire, watchdog_agent.identity, watchdog_agent.memory;"
        "print([m for m in sys.modules if m.partition('.')[0] in ('torch', 'numpy')])"
    )
    root = Path(wire.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
