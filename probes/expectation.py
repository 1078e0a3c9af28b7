"""Is the answer right? Pure: bytes and values in, an outcome and a summary out; nothing here raises on a bad answer.

- With `json_path` the body must be JSON and the value at that path is the answer; without one the whole JSON body is.
  A body that is no JSON is fine as long as only `text` or nothing is expected of it.
- `shape`, `rtol`, `atol`, `cosine` and `top_k` ask for numbers: an answer without them is `not_numeric`.
- `rtol`, `atol`, `cosine` and `top_k` compare with a golden output. Without a golden output they compare nothing; with
  one and none of the four set, nothing is compared either, not even the shape (an answer may change by design).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.answer import Floats, canonical_json, look_up, parse_json, parse_path, to_numbers
from probes.messages import Outcome, Output

MAX_GOLDEN_VALUES = 1024
"""Values kept of an answer, evenly spaced: flat[i * count // n] for i in range(n), n = min(count, this)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a good answer looks like. None asks for nothing.

    status: the HTTP status (checked by the HTTP canary).
    json_path: see `answer.parse_path`; ValueError when it cannot be read.
    shape: of the numbers, exactly.
    finite: no NaN and no infinity among the numbers, wherever they are in the answer.
    rtol, atol: |value - golden| <= atol + rtol * |golden| for every value (numpy.isclose); one left out counts as 0.
    cosine: the least cosine similarity with the golden values.
    top_k: the indices of the k largest values (flattened) are those of the golden output, in the same order.
    text: must be contained in the answer where that is a string, else in the raw body.
    """

    status: int = 200
    json_path: str | None = None
    shape: tuple[int, ...] | None = None
    finite: bool = True
    rtol: float | None = None
    atol: float | None = None
    cosine: float | None = None
    top_k: int | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.json_path is not None:
            parse_path(self.json_path)

    @property
    def compares(self) -> bool:
        """Whether a golden output is looked at."""
        return not (self.rtol is None and self.atol is None and self.cosine is None and self.top_k is None)

    @property
    def needs_numbers(self) -> bool:
        return self.compares or self.shape is not None


def summarise(values: NDArray[Any], *, content: bytes, top_k: int | None) -> Output:
    """What is kept of numbers of any shape and real dtype. `content` is what the content hash is taken over.

    mean, std, low, high are over the finite values and None where there are none (or where float64 overflows).
    """
    numbers = np.asarray(values, dtype=np.float64)
    flat = numbers.reshape(-1)
    count = flat.size
    finite = np.isfinite(flat)
    some = flat[finite]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = (some.mean(), some.std()) if some.size else (None, None)
    kept = min(count, MAX_GOLDEN_VALUES)
    return Output(
        content_hash=_digest(content),
        shape=numbers.shape,
        finite=bool(finite.all()) if count else None,
        count=count,
        mean=_known(mean),
        std=_known(std),
        low=float(some.min()) if some.size else None,
        high=float(some.max()) if some.size else None,
        values=tuple(flat[np.arange(kept) * count // kept].tolist()) if kept else (),
        top_k=_largest(flat, top_k) if top_k else (),
    )


def check_output(output: Output, expectation: Expectation, golden: Output | None) -> tuple[Outcome, str]:
    """(GOOD, "") or the first failure, in the order finite, shape, golden, and one line for a person."""
    if expectation.needs_numbers and output.shape is None:
        return Outcome.NOT_NUMERIC, "the answer holds no numbers"
    if expectation.finite and output.finite is False:
        return Outcome.NOT_FINITE, "the answer holds NaN or infinity"
    if expectation.shape is not None and output.shape != expectation.shape:
        return Outcome.WRONG_SHAPE, f"shape {_text(output.shape)}, expected {_text(expectation.shape)}"
    if golden is None or not expectation.compares:
        return Outcome.GOOD, ""
    if output.shape != golden.shape or len(output.values) != len(golden.values):
        return Outcome.WRONG_SHAPE, f"shape {_text(output.shape)}, the golden output has {_text(golden.shape)}"
    return _compare(output, expectation, golden)


def check_body(body: bytes, expectation: Expectation, golden: Output | None) -> tuple[Outcome, str, Output | None]:
    """As `check_output`, from the bytes of an answer; `text` first. The output is None when nothing could be read."""
    try:
        value = parse_json(body)
        value = value if expectation.json_path is None else look_up(value, expectation.json_path)
        content, all_finite = canonical_json(value)
    except LookupError as error:
        return Outcome.MISSING_FIELD, str(error.args[0]), None
    except ValueError:
        if expectation.json_path is not None or expectation.needs_numbers:
            return Outcome.NOT_JSON, f"the body ({len(body)} bytes) is not JSON", None
        output = Output(content_hash=_digest(body), text_hash=_digest(body))
        return *_check_text(body, None, expectation), output
    numbers = to_numbers(value)
    if isinstance(numbers, str):
        text_hash = _digest(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else None
        output = Output(content_hash=_digest(content), finite=None if all_finite else False, text_hash=text_hash)
        if expectation.needs_numbers:
            return Outcome.NOT_NUMERIC, numbers, output
    else:
        output = summarise(numbers, content=content, top_k=expectation.top_k)
    outcome, detail = _check_text(body, value, expectation)
    if outcome is Outcome.GOOD:
        outcome, detail = check_output(output, expectation, golden)
    return outcome, detail, output


def _check_text(body: bytes, value: object, expectation: Expectation) -> tuple[Outcome, str]:
    if expectation.text is None:
        return Outcome.GOOD, ""
    searched = value if isinstance(value, str) else body.decode("utf-8", "replace")
    if expectation.text in searched:
        return Outcome.GOOD, ""
    return Outcome.WRONG_TEXT, "the expected text is not in the answer"


def _compare(output: Output, expectation: Expectation, golden: Output) -> tuple[Outcome, str]:
    """Of two outputs of the same shape."""
    if expectation.top_k is not None:
        expected = _golden_top_k(golden, expectation.top_k)
        if expected is not None and output.top_k != expected:
            return Outcome.WRONG_TOP_K, f"the indices of the {len(expected)} largest values or their order changed"
    if expectation.rtol is not None or expectation.atol is not None:
        rtol, atol = expectation.rtol or 0.0, expectation.atol or 0.0
        detail = _value_drift(output, golden, rtol, atol) or _summary_drift(output, golden, rtol, atol)
        if detail is not None:
            return Outcome.DRIFTED, detail
    if expectation.cosine is not None:
        cosine = _cosine(np.array(output.values), np.array(golden.values))
        if not cosine >= expectation.cosine:
            return (
                Outcome.DRIFTED,
                f"cosine with the golden output {cosine:.6f}, at least {expectation.cosine} expected",
            )
    return Outcome.GOOD, ""


def _value_drift(output: Output, golden: Output, rtol: float, atol: float) -> str | None:
    """None when every kept value is close. NaN equals NaN: only reached where the expectation allows NaN."""
    values, expected = np.array(output.values), np.array(golden.values)
    with np.errstate(all="ignore"):
        far = ~np.isclose(values, expected, rtol=rtol, atol=atol, equal_nan=True)
        if not far.any():
            return None
        off = np.abs(values - expected)[far]
    by = f"by up to {off.max():.3g}" if np.isfinite(off).all() else "some by being not finite"
    return f"{off.size} of {far.size} compared values differ, {by}"


def _summary_drift(output: Output, golden: Output, rtol: float, atol: float) -> str | None:
    """None when the summary numbers are close. They see the values that are not kept.

    If every |a - b| <= atol + rtol * |b|, then by the triangle inequality mean and std are within atol + rtol * rms(b),
    low and high within atol + rtol * max|b|: a summary beyond that proves that some value is not close.
    """
    before = [golden.mean, golden.std, golden.low, golden.high]
    after = [output.mean, output.std, output.low, output.high]
    if golden.finite is False or output.finite is False or None in before or None in after:
        return None
    old, new = np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # a bound beyond float64 accuses nobody, nor does one unknown
        rms, largest = np.hypot(old[0], old[1]), np.abs(old[2:]).max()
        scale = np.array([rms, rms, largest, largest])
        rounding = 1e-9 * (atol + scale)  # the summaries themselves are rounded
        far = np.abs(new - old) > atol + rtol * scale + rounding
    names = [name for name, is_far in zip(("mean", "std", "low", "high"), far, strict=True) if is_far]
    return f"{' and '.join(names)} over all {output.count} values moved too far" if names else None


def _cosine(left: Floats, right: Floats) -> float:
    """Cosine similarity; 1 for two zero vectors, 0 for one of them, NaN (never enough) with values not finite."""
    scales = [float(np.abs(v).max(initial=0.0)) for v in (left, right)]
    if 0.0 in scales:
        return 1.0 if scales[0] == scales[1] else 0.0
    with np.errstate(all="ignore"):
        a, b = left / scales[0], right / scales[1]  # else squares of large values overflow
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _largest(flat: Floats, k: int) -> tuple[int, ...]:
    """Indices of the k largest, largest first; of equals the lower index first; NaN last."""
    return tuple(np.argsort(-flat, kind="stable")[:k].tolist())


def _golden_top_k(golden: Output, k: int) -> tuple[int, ...] | None:
    """None when the golden output was taken for a smaller k and does not hold every value."""
    if len(golden.top_k) >= min(k, golden.count):
        return golden.top_k[:k]
    return _largest(np.array(golden.values), k) if len(golden.values) == golden.count else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _known(number: np.float64 | None) -> float | None:
    return float(number) if number is not None and np.isfinite(number) else None


def _text(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))
