"""A model server that can be told to get slower in earnest: `regressing_server.py --port P --pid-file F`.

A small transformer encoder with weights from a seed, 3 to 4 ms a request in one thread, behind Starlette and uvicorn;
one request at a time. Slower means more to compute: residual blocks of the model's width after the encoder, each one or
two percent of a request. Whoever wants so many percent counts the blocks (`regression_recorder.calibrate`).

    POST /predict                    TOKENS x WIDTH float32 -> {"label": int}
    GET  /gemm                       the control: a matrix product of fixed size, 1 to 2 ms
    POST /switch?blocks=N&share=S    from now on S of the requests (1: all), at random, go through N more blocks
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import Tensor, nn

TOKENS, WIDTH, HEADS, HIDDEN = 64, 128, 4, 512
LAYERS = 4
CONTROL_SIDE = 384
MAX_BLOCKS = 400


class Block(nn.Module):
    """What a careless change adds: one more step for every token."""

    def __init__(self) -> None:
        super().__init__()
        self._linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + nn.functional.gelu(self._linear(tokens))


class Model:
    """The encoder, the blocks it can be burdened with, and the matrices of the control."""

    def __init__(self, *, seed: int) -> None:
        torch.manual_seed(seed)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True)
        self._encode = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval()
        self._blocks = nn.ModuleList(Block() for _ in range(MAX_BLOCKS)).eval()
        self._classify = nn.Linear(WIDTH, 10).eval()
        self._left, self._right = torch.randn(CONTROL_SIDE, CONTROL_SIDE), torch.randn(CONTROL_SIDE, CONTROL_SIDE)
        self._random = random.Random(seed)
        self._extra, self._share = 0, 1.0

    def slow_down(self, blocks: int, share: float) -> None:
        self._extra, self._share = min(blocks, MAX_BLOCKS), share

    @torch.inference_mode()
    def predict(self, body: bytes) -> int:
        tokens = self._encode(torch.frombuffer(bytearray(body), dtype=torch.float32).reshape(1, TOKENS, WIDTH))
        extra = self._extra if self._random.random() < self._share else 0
        for block in self._blocks[:extra]:
            tokens = block(tokens)
        return int(self._classify(tokens.mean(dim=1)).argmax())

    @torch.inference_mode()
    def multiply(self) -> float:
        return float((self._left @ self._right)[0, 0])


class Server:
    """The endpoints. The model runs in the loop's own thread: a request waits for the one before."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def predict(self, request: Request) -> Response:
        return JSONResponse({"label": self._model.predict(await request.body())})

    async def multiply(self, _request: Request) -> Response:
        return JSONResponse({"corner": self._model.multiply()})

    async def switch(self, request: Request) -> Response:
        self._model.slow_down(int(request.query_params["blocks"]), float(request.query_params["share"]))
        return JSONResponse({})

    def app(self) -> Starlette:
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/gemm", self.multiply),
            Route("/switch", self.switch, methods=["POST"]),
        ]
        return Starlette(routes=routes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid-file", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    app = Server(Model(seed=args.seed)).app()
    args.pid_file.write_text(f"{os.getpid()}\n")
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", access_log=False, timeout_keep_alive=3600)


if __name__ == "__main__":
    main()
