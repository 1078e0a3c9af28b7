"""A PyTorch model behind Flask. Run it from the repository's root, and watch it with `examples/flask.toml`:

    flask --app examples/flask_server run --port 8001

In production the same application runs under a real server, for example two workers of
`gunicorn --chdir examples --workers 2 --bind 127.0.0.1:8001 flask_server:app`; the configuration stays as it is.

POST /next {"tokens": [ids]} -> {"data": [{"logits": [64 numbers]}]}
"""

from __future__ import annotations

import torch
from flask import Flask, abort, request
from torch import nn

from watchdog_agent.middleware import WatchdogWSGI

VOCABULARY, WIDTH = 64, 128


class NextToken(nn.Module):
    """Scores of the token that follows, from a GRU. Random weights, fixed by the seed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.memory = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.logits = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states, _ = self.memory(self.embedding(ids))
        logits: torch.Tensor = self.logits(states[:, -1])
        return logits


torch.manual_seed(0)
model = NextToken().eval()

app = Flask(__name__)
app.wsgi_app = WatchdogWSGI(app.wsgi_app)  # type: ignore[method-assign]  # optional; Flask's own way to add middleware


@app.post("/next")
def next_token() -> dict[str, object]:
    tokens = (request.get_json() or {}).get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(type(t) is int and 0 <= t < VOCABULARY for t in tokens):
        abort(422, f"tokens must be a list of numbers from 0 to {VOCABULARY - 1}")
    with torch.inference_mode():
        return {"data": [{"logits": model(torch.tensor([tokens]))[0].tolist()}]}


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
