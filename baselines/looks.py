"""When a comparison that is still being measured is looked at, and how sure an answer must be to end it there.

Whoever looks again and again at a 95 % interval and stops when it suits is wrong far more often than in 5 % of cases.
By the rule of Haybittle (1971, British Journal of Radiology 44) and Peto et al. (1976, British Journal of Cancer 34)
every look before the last needs a 99.9 % interval: so wide that the last one may use its 95 % interval as if there had
been no others. Each wrong answer then has 2.5 % from the last look and at most 0.05 % from each early one, for either
quantile, whatever the looks have to do with each other.
"""

from __future__ import annotations

import math

FIRST_LOOK = 6  # bursts; a bootstrap over fewer claims more than it knows
GROWTH = 1.5  # the next look after half as many bursts again: sooner, the same data would be asked twice
_LAST_Z = 1.959964  # what the 95 % intervals of `quantiles` are made for
_EARLY_Z = 3.290527  # P(|z| >= this) = 0.001


def is_look(bursts: int, last: int) -> bool:
    """Whether to look after so many bursts, before the last look after `last`: 6, 9, 14, 21, 32, ..."""
    look = FIRST_LOOK
    while look < bursts:
        look = math.ceil(look * GROWTH)
    return look == bursts < last


def early_stretch(bursts: int) -> float:
    """By how much a 95 % interval is stretched at an early look (`Ratio.stretched`). bursts: the smaller number, >= 2.

    From 95 % to 99.9 %, and from the normal distribution to Student's with bursts - 1 degrees of
    freedom, since the spread of so few bursts is itself a guess (Abramowitz and Stegun 26.7.5, first four terms).
    """
    z, freedom = _EARLY_Z, bursts - 1
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    student += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return student / _LAST_Z
