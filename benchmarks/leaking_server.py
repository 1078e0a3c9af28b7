"""A model server that really leaks, or only looks like it: `leaking_server.py --port P --variant V --pid-file F`.

A small convolutional network with weights from a seed, in one thread, behind Starlette and uvicorn. The variants are
the mistakes that are made in earnest:

    healthy         a cache of results with a bound: it grows for some minutes, then it is full
    resized_cache   the same; when it has been full for long, somebody gives it a third more
    slow_cache      the same with three times the bound: full after half an hour or so
    references      each request's feature map is appended to a list, "for later"
    graphs          a running total of losses, `total = total + loss`, holds the autograd graph of each
    cache           the cache of `healthy`, without its bound
    shapes          every request has a size of its own: nothing is kept, yet oneDNN and glibc hold on to memory
    shapes_slowly   now and then there is a size that was not there before
    shapes_limited  `shapes` with oneDNN's and ATen's caches limited, as their documentation advises

    POST /predict?height=H&width=W   3 x H x W bytes -> {"label": int}; X-Kept-Bytes: what is held that should not be
    POST /trim                       collects garbage and calls malloc_trim(3)
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import Tensor, nn

VARIANTS = (
    *("healthy", "resized_cache", "slow_cache", "cache", "references", "graphs"),
    *("shapes", "shapes_slowly", "shapes_limited"),
)
BOUNDS = {"healthy": 60_000_000, "resized_cache": 60_000_000, "slow_cache": 180_000_000, "cache": None}  # bytes
RESIZED_AFTER, RESIZED = 3600, 80_000_000  # requests; bytes
SCORED = 5  # one request in so many is scored in `graphs`: an autograd graph is a big thing


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
    )


class Model:
    """The network with one of the mistakes. kept_bytes: what is held that should not be."""

    def __init__(self, variant: str, *, seed: int) -> None:
        self._variant = variant
        self._features = network(seed)
        self._classify = nn.Linear(32, 10)
        self._cache: OrderedDict[bytes, Tensor] = OrderedDict()
        self._cached_bytes = 0
        self._inspected: list[Tensor] = []
        self._total = torch.zeros(())
        self._requests = 0
        self.kept_bytes = 0

    def predict(self, body: bytes, height: int, width: int) -> int:
        self._requests += 1
        image = torch.frombuffer(bytearray(body), dtype=torch.uint8).reshape(1, 3, height, width) / 255
        if self._variant == "graphs" and self._requests % SCORED == 0:
            self._score(image)
        with torch.inference_mode():
            features = self._remembered(body, image)
            if self._variant == "references":
                self._inspected.append(features)
                self.kept_bytes += features.nbytes
            return int(self._classify(features.mean(dim=(2, 3))).argmax())

    def _remembered(self, body: bytes, image: Tensor) -> Tensor:
        if self._variant not in BOUNDS:
            found: Tensor = self._features(image)
            return found
        key = sha256(body).digest()
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        found = self._cache[key] = self._features(image)
        self._cached_bytes += found.nbytes
        bound = BOUNDS[self._variant]
        if self._variant == "resized_cache" and self._requests > RESIZED_AFTER:
            bound = RESIZED
        if bound is None:
            self.kept_bytes = self._cached_bytes
        while bound is not None and self._cached_bytes > bound:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return found

    def _score(self, image: Tensor) -> None:
        """How far the features are from their mean; the graph of each loss is counted by the storages it saves."""
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self._total = self._total + self._features(image).var()
        self.kept_bytes += sum(saved.values())


class Server:
    """The endpoints; the model has a thread of its own."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(1, "model", initializer=torch.set_num_threads, initargs=(1,))

    async def predict(self, request: Request) -> Response:
        height, width = (int(request.query_params[name]) for name in ("height", "width"))
        body = await request.body()
        label = await asyncio.get_running_loop().run_in_executor(self._thread, self._model.predict, body, height, width)
        return JSONResponse({"label": label}, headers={"X-Kept-Bytes": str(self._model.kept_bytes)})

    async def trim(self, _request: Request) -> Response:
        gc.collect()
        return JSONResponse({"trimmed": ctypes.CDLL(None).malloc_trim(0)})

    def app(self) -> Starlette:
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/trim", self.trim, methods=["POST"]),
        ]
        return Starlette(routes=routes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--pid-file", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.pid_file.write_text(f"{os.getpid()}\n")
    app = Server(Model(args.variant, seed=args.seed)).app()
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", access_log=False, timeout_keep_alive=3600)


if __name__ == "__main__":
    main()
