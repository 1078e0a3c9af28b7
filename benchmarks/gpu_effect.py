"""What it costs a model that somebody asks: requests that met a question against those that did not, in one run.

The model serves without a pause, so that every question meets a request. Seconds with questions and seconds without
take turns. Questions come more often than by default, and count for as few as there would be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from baselines.quantiles import Floats
from benchmarks.effect import Block, Change, change
from benchmarks.gpu_worker import Worker

AROUND_S = 1e-3  # before a question, for whoever asks to wake; after it, for whatever waited


@dataclass(frozen=True, slots=True)
class Effect:
    """change: of p99 at the default rhythm. asked_ms: what a question took whoever asked. p99: in ms, of the requests
    that met a question, and of the others; of all in the turns with questions, and in those without."""

    change: Change
    questions: int
    requests: int
    asked_ms: float
    p50_ms: float
    p99_beside_ms: float
    p99_apart_ms: float
    p99_turns_with_ms: float
    p99_turns_without_ms: float


def measure(
    worker: Worker, ask: Callable[[], None], *, seconds: float, turn_s: float, every_s: float, default_s: float
) -> Effect:
    """worker: one that serves, ready. turn_s: with questions, then as long without; two turns fit into `seconds`.

    every_s: from one question to the next here; default_s: in the daemon.
    """
    worker.begin()
    began, asked = time.monotonic(), list[tuple[float, float]]()
    while (elapsed := time.monotonic() - began) < seconds:
        if elapsed // turn_s % 2 == 0:
            asked_at = time.monotonic()
            ask()
            asked.append((asked_at, time.monotonic()))
        time.sleep(every_s)
    requests = worker.end().reshape(-1, 2)
    rarity = seconds / default_s / len(asked)
    return compare(requests, np.array(asked), began=began, seconds=seconds, turn_s=turn_s, rarity=rarity)


def compare(requests: Floats, asked: Floats, *, began: float, seconds: float, turn_s: float, rarity: float) -> Effect:
    """requests: when each began, one after the other, and how long it took. asked: from when to when, of each question.

    rarity: how many questions there would be by default, for each that there was.
    """
    begins, took = requests[requests[:, 0] >= began].T
    first = np.searchsorted(begins + took, asked[:, 0] - AROUND_S)
    last = np.searchsorted(begins, asked[:, 1] + AROUND_S)
    beside = np.zeros(len(begins), dtype=bool)
    for a, b in zip(first, last, strict=True):
        beside[a:b] = True
    turns = (begins - began) // turn_s
    pairs = [turns // 2 == number for number in range(int(seconds // (2 * turn_s)))]
    parts = [Block(took[pair & beside], took[pair & ~beside]) for pair in pairs]
    with_questions = turns % 2 == 0

    def p99_ms(which: np.ndarray) -> float:
        return 1e3 * float(np.quantile(took[which], 0.99))

    return Effect(
        change=change(parts, rarity=rarity),
        questions=len(asked),
        requests=len(took),
        asked_ms=1e3 * float(np.median(asked[:, 1] - asked[:, 0])),
        p50_ms=1e3 * float(np.median(took)),
        p99_beside_ms=p99_ms(beside),
        p99_apart_ms=p99_ms(~beside),
        p99_turns_with_ms=p99_ms(with_questions),
        p99_turns_without_ms=p99_ms(~with_questions),
    )
