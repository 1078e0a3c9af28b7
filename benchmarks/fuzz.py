"""Coverage-guided fuzzing (atheris) of all that reads what others wrote: `python -m benchmarks.fuzz --seconds 60`.

Each part is a function of bytes that may raise nothing but what it catches. It runs in a process of its own, since the
fuzzer ends its process; an input that broke one is printed, to become an `@example` in tests/hostile. One part:
`--part answer`. The same functions run in the test suite on inputs made by hypothesis. Needs `pip install atheris`.
"""

# ruff: noqa: PLC0415, PT017  (parts import what they fuzz, so that it is instrumented; they assert like tests)

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.report import Goal, Report, main, show_table

SEEDS: Mapping[str, list[bytes]] = {
    "answer": [b'\x00{"outputs": [[1.5, -2e3], [NaN, null]]}', b"\x05[1, 2, 3]", b'\x03"text"'],
    "recording": [b"time,latency_s,ok,burst\n0,0.1,1,a\n1,0.2,0,b\n", b"time,used_bytes,worker\n0,1e9,a\n15,2e9,a\n"],
    "wire": [b'{"v":1,"kind":"timed","latency_s":0.1,"device_s":null}\n', b'{"v":1,"kind":"measured","output":null'],
    "config": [Path(__file__).parents[1].joinpath("config.example.toml").read_bytes()],
    "load": [b'x{a="b"}\n# TYPE x gauge\nx{a="b",c="d"} 1 2\nx 3e1\n', b"x\nReading: 1 Writing: 2 Waiting: 3 \n"],
    "headers": [b"1@2;torch=2.13;cuda=12.4\n2.0", b"uvicorn\nv1"],
}
MAX_INPUT_BYTES = 4096
MEMORY_MB = 1500


def answer(data: bytes) -> None:
    """The checks of an answer; the first byte chooses what is expected of it."""
    import numpy as np

    from probes.expectation import Expectation, check_body, summarise
    from probes.messages import Outcome

    expectations = (
        Expectation(),
        Expectation(text="a"),
        Expectation(json_path="outputs[0]"),
        Expectation(shape=(2, 2), finite=False),
        Expectation(rtol=1e-3, atol=1e-6, finite=False),
        Expectation(cosine=0.99, top_k=2, finite=False),
    )
    chosen = expectations[(data[0] if data else 0) % len(expectations)]
    golden = summarise(np.array([[1.5, -2e3], [1e308, 0.0]]), content=b"", top_k=2)
    for before in (None, golden):
        outcome, detail, _ = check_body(data[1:], chosen, before)
        assert (outcome is Outcome.GOOD) == (detail == "")
        assert detail.isprintable()


def recording(data: bytes) -> None:
    """A file for `watchdog replay`, and what the detectors make of it."""
    from baselines.leak import LeakPolicy
    from baselines.recording import ReplayError, read_latency_csv, read_memory_csv
    from baselines.replay import baseline_of, replay_latency, replay_memory
    from baselines.slowdown import RegressionPolicy

    lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    try:
        points = read_latency_csv(lines).points
        half = max(1, len(points) // 2)
        baseline = baseline_of(points, 0, half)
        json.dumps(list(replay_latency(points, baseline=baseline, first_row=half, policy=RegressionPolicy())))
    except ReplayError as error:
        assert str(error).isprintable()
    try:
        json.dumps(list(replay_memory(read_memory_csv(lines).points, policy=LeakPolicy())), allow_nan=False)
    except ReplayError as error:
        assert str(error).isprintable()


def wire(data: bytes) -> None:
    """What comes down the pipe of the isolated worker."""
    from watchdog_agent import wire as protocol

    try:
        for line in protocol.Lines(limit=2048).feed(data + b"\n"):
            message = protocol.decode(line)
            protocol.decode(protocol.encode(message))
    except protocol.WireError as error:
        assert len(str(error)) < 400


def config(data: bytes) -> None:
    """A configuration file."""
    from watchdog.config import ConfigError, load_config

    path = Path(tempfile.gettempdir()) / "watchdog-fuzz.toml"
    path.write_bytes(data)
    try:
        load_config(path)
    except ConfigError as error:
        assert error.problems
        assert all(problem.isprintable() for problem in error.problems)


def headers(data: bytes) -> None:
    """What a server says of itself."""
    from probes.canary.provenance import read_life, read_provenance

    worker, _, version = data.decode("latin-1").partition("\n")
    said = {"x-watchdog-worker": worker, "x-model-version": version, "server": version}
    read_life(said)
    assert all(value.isprintable() for value in read_provenance(said, version_header="x-model-version").values())


def load(data: bytes) -> None:
    """A selector of the configuration on the first line, then the page that a server answers."""
    import math
    from dataclasses import replace
    from functools import partial

    from probes.load import LoadMeter, read_series, read_stub_status
    from probes.prometheus import parse_selector

    first, _, page = data.decode(errors="replace").partition("\n")
    readings = [read_stub_status(page)]
    try:
        selector = parse_selector(first)
        readings += [read_series(page, selector, rate=rate) for rate in (False, True)]
    except ValueError as error:
        assert str(error).isprintable()
    for reading in readings:
        came = LoadMeter(partial(replace, reading)).read()
        assert (came.value is None) == came.failed == bool(came.why)
        assert came.value is None or 0 <= came.value < math.inf
        assert came.why.isprintable()


PARTS: Mapping[str, Callable[[bytes], None]] = {
    "answer": answer,
    "recording": recording,
    "wire": wire,
    "config": config,
    "load": load,
    "headers": headers,
}


def fuzz_here(part: str, seconds: int, folder: Path) -> None:
    """Fuzz one part until the time is up; ends this process. Exit code 0: nothing was found."""
    import atheris

    with atheris.instrument_imports(include=["probes", "baselines", "watchdog", "watchdog_agent"]):
        for seed in SEEDS[part]:
            PARTS[part](seed)  # imports what is to be instrumented
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[part]):
        (corpus / f"seed-{number}").write_bytes(seed)
    warnings.simplefilter("error")
    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT_BYTES}", f"-rss_limit_mb={MEMORY_MB}", "-timeout=10"]
    atheris.Setup(
        ["fuzz", *limits, f"-artifact_prefix={folder}/found-", "-print_final_stats=1", str(corpus)], PARTS[part]
    )
    atheris.Fuzz()


def fuzz(part: str, seconds: int) -> tuple[dict[str, int], Goal]:
    """One part in a process of its own: its figures, and whether anything broke it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        argv = [sys.executable, "-m", "benchmarks.fuzz", "--part", part, "--seconds", str(seconds), "--here", name]
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", check=False, timeout=seconds + 300
        )
        found = [path.read_bytes() for path in Path(name).glob("found-*")]
    figures = {
        key: int((re.findall(pattern, done.stderr) or ["0"])[-1])
        for key, pattern in {
            "runs": r"number_of_executed_units:\s*(\d+)",
            "covered_edges": r"cov: (\d+)",
            "peak_rss_mb": r"peak_rss_mb:\s*(\d+)",
        }.items()
    }
    clean = done.returncode == 0 and not found
    if not clean:
        print(f"{part}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        print("\n".join(f"input: {content!r}" for content in found))
    said = "none" if clean else f"{len(found)}, exit code {done.returncode}"
    return figures, Goal(name=f"{part}: inputs that break it", goal="none", value=said, met=clean)


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=int, default=60, help="for each part")
    parser.add_argument("--part", choices=list(PARTS), help="only this one")
    parser.add_argument("--here", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> Report:
    if options.here is not None:
        fuzz_here(options.part, options.seconds, options.here)
    results = {part: fuzz(part, options.seconds) for part in ([options.part] if options.part else PARTS)}
    figures = {part: figures for part, (figures, _) in results.items()}
    show_table(
        [(part, *each.values()) for part, each in figures.items()],
        header=("part", "runs", "covered edges", "peak MB"),
    )
    return Report(name="fuzz", figures=figures, goals=[goal for _, goal in results.values()])


if __name__ == "__main__":
    main(run, describe, __doc__)
