"""A model server whose latencies are known: `python paced_server.py PORT [--median-ms M] [--spread S]`.

Each path has a deck of service times: the quantiles of one log-normal distribution, shuffled by a seed made of the
path. So two clients that ask different paths meet the same distribution exactly, and differ in nothing but themselves.
The first request of a connection, which clients throw away as their warm-up, takes the median and draws none, unless
the path begins with /each: for clients that open a connection for every request.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections.abc import Iterator
from itertools import cycle
from statistics import NormalDist

DECK = 100
BODY = b'{"y": [[0.125, 0.25, 0.375]]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Decks:
    """Service times in seconds, one endless row for each path."""

    def __init__(self, median_s: float, spread: float) -> None:
        self._median_s = median_s
        quantiles = [NormalDist().inv_cdf((i + 0.5) / DECK) for i in range(DECK)]
        self._times = [median_s * math.exp(spread * z) for z in quantiles]
        self._rows: dict[bytes, Iterator[float]] = {}

    def next(self, path: bytes, *, first: bool) -> float:
        if first and not path.startswith(b"/each"):
            return self._median_s
        if path not in self._rows:
            shuffled = random.Random(path).sample(self._times, DECK)
            self._rows[path] = cycle(shuffled)
        return next(self._rows[path])


class Answering(asyncio.Protocol):
    """One connection: HTTP/1.1, one request at a time."""

    def __init__(self, decks: Decks) -> None:
        self._decks = decks
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._first = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        arrived = self._loop.time()
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if len(rest) < length:
            return
        self._received = rest[length:]
        delay_s = self._decks.next(head.split(b" ", 2)[1], first=self._first)
        self._first = False
        if delay_s <= 0:
            self._answer()
        else:
            self._loop.call_at(arrived + delay_s, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)


async def serve(port: int, decks: Decks) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Answering(decks), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--median-ms", type=float, default=7.0)
    parser.add_argument("--spread", type=float, default=0.15)
    options = parser.parse_args()
    asyncio.run(serve(options.port, Decks(options.median_ms / 1e3, options.spread)))
