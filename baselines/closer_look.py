"""How many more requests the next bursts may have, while something may have changed and cannot be told yet.

More samples find a change of the slowest requests two to three times sooner. So that a canary costs no more on average
than it did, they are paid from a budget. Evidence stays valid when the size of a sample is chosen from what was seen
before it.
"""

from __future__ import annotations

HINT = 2.5  # deviations, of any window, however little of it agrees
TIMES = 3  # as many requests in a burst
BURSTS = 5  # so many bursts, from the last hint on
EXTRA = 0.1  # of all requests, on average
SAVED = 20.0  # ordinary bursts' worth of requests: ten closer bursts in a row


class CloserLook:
    """Follows the bursts of one canary. size: requests of an ordinary one, above 0."""

    def __init__(self, size: float) -> None:
        self._size = size
        self._saved = SAVED
        self._left = 0

    def take(self, requests: int, hint: float) -> None:
        """A burst, and the evidence after it. One that was larger is paid for, whoever asked for it."""
        larger = max(0.0, requests / self._size - 1)
        self._saved = min(max(self._saved + EXTRA - larger, 0.0), SAVED)
        self._left = BURSTS if hint >= HINT else max(0, self._left - 1)

    @property
    def times(self) -> int:
        """How many times as many requests the next burst may have."""
        return TIMES if self._left > 0 and self._saved >= TIMES - 1 else 1
