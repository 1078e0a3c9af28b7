"""A PyTorch model behind FastAPI. Run it from the repository's root, and watch it with `examples/fastapi.toml`:

    uvicorn --app-dir examples fastapi_server:app --port 8000

POST /score {"features": [16 numbers]} -> {"scores": [4 numbers], "label": int}
"""

from __future__ import annotations

from typing import Annotated

import torch
from fastapi import FastAPI
from pydantic import BaseModel, Field
from torch import nn

from watchdog_agent.attach import attach
from watchdog_agent.middleware import WatchdogASGI

FEATURES, CLASSES = 16, 4

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES))
model.eval()

app = FastAPI()
attach(version="1", model=model)  # optional: [target.agent] then tells requests, shapes of input and more
app.add_middleware(WatchdogASGI)  # optional: counts requests; answers to canaries say which worker gave them


class ScoreRequest(BaseModel):
    features: Annotated[list[float], Field(min_length=FEATURES, max_length=FEATURES)]


class ScoreAnswer(BaseModel):
    scores: list[float]
    label: int


@app.post("/score")
def score(request: ScoreRequest) -> ScoreAnswer:
    with torch.inference_mode():
        scores = model(torch.tensor([request.features]))[0]
    return ScoreAnswer(scores=scores.tolist(), label=int(scores.argmax()))


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
