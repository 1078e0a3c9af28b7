"""Records the memory of `leaking_server.py` in each of its variants, all at once, as the daemon would see it.

Each server gets one client. Its rate follows a wave, its requests come at random, half of them repeat one of a few
hundred images. One CSV file a variant, in the format of `watchdog replay`, with one column more: kept_bytes, what the
server says it holds that it should not.
"""

from __future__ import annotations

import http.client
import itertools
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from probes.messages import MemorySample
from probes.process import ProcessSpec, WorkerWatch

SERVER = Path(__file__).with_name("leaking_server.py")
EVERY_S = 1.25  # an hour stands for a day: half a minute between samples, as in the other benchmark
WAVE_S, WAVE = 1200.0, 0.6
MEAN_RATE = 2.0  # requests a second
SIDE, SIDES = 56, (32, 160)  # of an image; of one where each has its own
POPULAR = 300
NEW_SHAPE = 0.05  # share of the requests in `shapes_slowly`
LIMITED = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "16"}
HEADER = "time,used_bytes,capacity_bytes,load,worker,kept_bytes\n"


class Recorded:
    """One server, its client, and its file."""

    def __init__(self, variant: str, folder: Path, *, seed: int, stack: ExitStack) -> None:
        self.variant, self.kept_bytes, self.requests = variant, 0, 0
        self._random = random.Random(f"{seed} {variant}")
        self._shapes: list[tuple[int, int]] = []
        self._stop = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        pid_file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "pid"
        argv = [sys.executable, str(SERVER), "--port", str(self._port), "--variant", variant]
        self._server = subprocess.Popen(
            [*argv, "--pid-file", str(pid_file), "--seed", str(seed)],
            env={**os.environ, **(LIMITED if variant == "shapes_limited" else {})},
        )
        stack.callback(self._end)
        self.watch = WorkerWatch(ProcessSpec(pid_file=pid_file), target=variant)
        self._file = stack.enter_context((folder / f"{variant}.csv").open("w", buffering=1))
        self._file.write(HEADER)
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def start(self) -> None:
        """Begin to ask, once the server answers."""
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                break
            except OSError:
                if time.monotonic() > until or self._server.poll() is not None:
                    raise
                time.sleep(0.1)
        self._thread.start()

    def write(self, began: float) -> None:
        """One row for each worker, there being one. Raises RuntimeError when its client has given up."""
        if not self._thread.is_alive():
            raise RuntimeError(f"{self.variant}: no more requests are sent")
        for sample in self.watch.sample(time.time()):
            self._write(sample, began)

    def _write(self, sample: MemorySample, began: float) -> None:
        load = "" if sample.load is None else f"{sample.load:.4f}"
        at = f"{sample.at - began:.2f}"
        cells = (at, sample.host_anon_bytes, sample.capacity_bytes, load, self.variant, self.kept_bytes)
        self._file.write(",".join(map(str, cells)) + "\n")

    def ended(self) -> dict[str, int | None]:
        """What came of it; RssAnon before and after malloc_trim, when no more requests come."""
        self._stop.set()
        self._thread.join(30)
        before = self.watch.sample(time.time())[0].host_anon_bytes
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.request("POST", "/trim")
        connection.getresponse().read()
        connection.close()
        after = self.watch.sample(time.time())[0].host_anon_bytes
        return {"requests": self.requests, "before_trim_bytes": before, "after_trim_bytes": after}

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        began = time.monotonic()
        for number in itertools.count():
            rate = MEAN_RATE * (1 + WAVE * math.sin(2 * math.pi * (time.monotonic() - began) / WAVE_S))
            if self._stop.wait(self._random.expovariate(rate)):
                break
            height, width = self._shape()
            popular = self._random.random() < 0.5
            image = random.Random(self._random.randrange(POPULAR) if popular else POPULAR + number)
            connection.request("POST", f"/predict?height={height}&width={width}", image.randbytes(3 * height * width))
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{self.variant}: {answer.status}")
            self.kept_bytes, self.requests = int(answer.headers["X-Kept-Bytes"]), number + 1
        connection.close()

    def _shape(self) -> tuple[int, int]:
        if not self.variant.startswith("shapes"):
            return SIDE, SIDE
        if self.variant != "shapes_slowly" or not self._shapes or self._random.random() < NEW_SHAPE:
            self._shapes.append((self._random.randint(*SIDES), self._random.randint(*SIDES)))
            return self._shapes[-1]
        return self._random.choice(self._shapes)

    def _end(self) -> None:
        self._stop.set()
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()


def record(variants: tuple[str, ...], folder: Path, *, seconds: float, seed: int) -> None:
    """Write VARIANT.csv and about.json. All servers run at once, at low priority."""
    os.nice(15)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the servers would go on
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        recorded = [Recorded(variant, folder, seed=seed, stack=stack) for variant in variants]
        for each in recorded:
            each.start()
        began, began_at = time.monotonic(), time.time()
        for number in itertools.count(1):
            for each in recorded:
                each.write(began_at)
            if number * EVERY_S > seconds:
                break
            time.sleep(max(0.0, began + number * EVERY_S - time.monotonic()))
        about = {
            "machine": report.machine(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "command": f"python -m benchmarks.leak_recorded --record --seconds {seconds:g} --seed {seed}",
            "variants": {each.variant: each.ended() for each in recorded},
        }
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
