"""The demo's model server: a real transformer encoder behind Starlette and uvicorn, in one process on one core.

Run by path as a child process (`python server.py --port P --pid-file F`): the daemon's packages never import torch, so
nothing of them imports this file.

    POST /predict    {"tokens": [ids]} -> {"embedding": [64 floats], "label": int}; the same answer for the same ids,
                     bit for bit; about 6 ms of real work for 24 ids
    GET  /health     200 at once, from the event loop, whatever the model does: as most health pages do
    GET  /reference  one fixed matrix product of about 1 ms: slow when the machine is slow, not when the model is
    POST /fault      {"kind": "slow" | "leak" | "wrong" | "hang" | "none", ...}, see `Fault`; for the demo only

A fresh process has no fault. SIGTERM waits for the requests in flight, so a hung inference outlives it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import Tensor, nn

from watchdog_agent.middleware import WatchdogASGI

MODEL_VERSION = "demo-encoder-1"
VOCABULARY, MAX_TOKENS = 1000, 64
WIDTH, HEADS, LAYERS = 192, 4, 10  # float32; 10 layers x 24 tokens are 5.6 ms on one core of a 2023 server
EMBEDDING, LABELS = 64, 8
REFERENCE_SIZE = 384  # 384^3 multiply-adds: about 1 ms on the same core
WARMUP_INFERENCES = 10  # torch sets up its kernels lazily; ready means ready


class PredictRequest(BaseModel):
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=VOCABULARY)]], Field(min_length=1, max_length=MAX_TOKENS)]


class Fault(BaseModel):
    """What goes wrong from the next request on. A new fault replaces the old one; "none" is the healthy model again.

    slow: `share` more encoder layers are computed and thrown away, so that the answer stays the same bit for bit. HTTP
        and JSON take a quarter of a request, so 40 % more layers make a request about 30 % slower.
    leak: every request keeps a tensor of `bytes_per_request`, all of it written to.
    wrong: every weight gets noise of `noise` times its tensor's mean magnitude.
    hang: the next inference waits for ever without using the CPU, and all others wait behind it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["slow", "leak", "wrong", "hang", "none"]
    share: Annotated[float, Field(gt=0, le=1)] = 0.40
    bytes_per_request: Annotated[int, Field(ge=4, le=64_000_000)] = 1_000_000
    noise: Annotated[float, Field(gt=0, le=10)] = 0.5


HEALTHY = Fault(kind="none")


class Encoder(nn.Module):
    """Token ids (tokens,) in, an embedding (64,) and label scores (8,) out. Random weights, fixed by the seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(MAX_TOKENS, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True) for _ in range(LAYERS)
        )
        self.embed = nn.Linear(WIDTH, EMBEDDING)
        self.classify = nn.Linear(EMBEDDING, LABELS)
        self.eval()

    def forward(self, ids: Tensor, wasted_layers: int) -> tuple[Tensor, Tensor]:
        hidden = (self.tokens(ids) + self.positions.weight[: len(ids)]).unsqueeze(0)
        for layer in self.layers:
            hidden = layer(hidden)
        wasted = hidden
        for layer in self.layers[:wasted_layers]:
            wasted = layer(wasted)
        embedding: Tensor = self.embed(hidden.mean(dim=(0, 1)))
        return embedding, self.classify(embedding)

    @torch.no_grad()
    def add_noise(self, noise: float) -> None:
        for weight in self.parameters():
            weight.add_(torch.randn_like(weight) * weight.abs().mean() * noise)


@dataclass(slots=True)
class Inference:
    """A model with one fault. `release` is what a hung inference waits for."""

    encoder: Encoder
    fault: Fault
    kept: list[Tensor] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(cls, seed: int, fault: Fault) -> Inference:
        encoder = Encoder(seed)
        if fault.kind == "wrong":
            encoder.add_noise(fault.noise)
        return cls(encoder, fault)

    @torch.inference_mode()
    def predict(self, tokens: list[int]) -> dict[str, object]:
        if self.fault.kind == "hang":
            self.release.wait()
        wasted_layers = round(self.fault.share * LAYERS) if self.fault.kind == "slow" else 0
        embedding, scores = self.encoder(torch.tensor(tokens), wasted_layers)
        if self.fault.kind == "leak":
            self.kept.append(torch.ones(self.fault.bytes_per_request // 4))
        return {"embedding": embedding.tolist(), "label": int(scores.argmax())}


class Server:
    """The endpoints. Inference has a thread of its own, so that the event loop always answers."""

    def __init__(self, *, seed: int, pid_file: Path | None) -> None:
        self._seed, self._pid_file = seed, pid_file
        self._inference = Inference.start(seed, HEALTHY)
        self._model_thread = _one_core_thread("model")
        self._reference_thread = _one_core_thread("reference")
        self._reference = torch.rand(REFERENCE_SIZE, REFERENCE_SIZE, generator=torch.Generator().manual_seed(0))

    async def predict(self, request: Request) -> Response:
        try:
            asked = PredictRequest.model_validate_json(await request.body())
        except ValidationError as error:
            return _refused(error)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._model_thread, self._inference.predict, asked.tokens)
        return JSONResponse(answer, headers={"X-Model-Version": MODEL_VERSION})

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def reference(self, _request: Request) -> Response:
        product = await asyncio.get_running_loop().run_in_executor(self._reference_thread, self._multiply)
        return JSONResponse({"trace": product})

    async def inject(self, request: Request) -> Response:
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            return _refused(error)
        healed = await asyncio.to_thread(Inference.start, self._seed, fault)
        before, self._inference = self._inference, healed
        before.release.set()
        return JSONResponse(fault.model_dump())

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        for _ in range(WARMUP_INFERENCES):
            self._inference.predict(list(range(24)))
            self._multiply()
        if self._pid_file is not None:
            _write_pid(self._pid_file)
        yield
        if self._pid_file is not None:
            self._pid_file.unlink(missing_ok=True)

    @torch.inference_mode()
    def _multiply(self) -> float:
        return float((self._reference @ self._reference).trace())

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/predict", self.predict, methods=["POST"]),
                Route("/health", self.health),
                Route("/reference", self.reference),
                Route("/fault", self.inject, methods=["POST"]),
            ],
            middleware=[Middleware(WatchdogASGI)],  # all that a real server adds for the watchdog
            lifespan=self.lifespan,
        )


def _one_core_thread(name: str) -> ThreadPoolExecutor:
    """OpenMP counts threads for each thread that computes, so the limit is set inside it."""
    return ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(1,))


def _refused(error: ValidationError) -> Response:
    return JSONResponse(
        {"problems": error.errors(include_url=False, include_context=False, include_input=False)}, status_code=422
    )


def _write_pid(path: Path) -> None:
    """Whole or not at all: a watcher may read at any moment."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(f"{os.getpid()}\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="The demo's model server.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pid-file", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    app = Server(seed=args.seed, pid_file=args.pid_file).app()
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
