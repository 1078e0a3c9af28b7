"""The fixed input and the summary of an answer, against numpy and the daemon's own summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probes.expectation import MAX_GOLDEN_VALUES
from probes.expectation import summarise as summarise_with_numpy
from watchdog_agent.tensors import build_inputs, describe_inputs, first_tensor, summarise


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    st.integers(1, 4),
)
def test_summary_is_the_daemons_own(values: np.ndarray[Any, Any], top_k: int) -> None:
    """Torch in the worker and numpy in the daemon say the same of the same numbers, NaN and infinities included."""
    got = summarise(torch.from_numpy(values.copy()), values=MAX_GOLDEN_VALUES, top_k=top_k)
    want = summarise_with_numpy(values, content=values.tobytes(), top_k=top_k)
    assert (got.content_hash, tuple(got.shape), got.finite, got.count) == (
        want.content_hash,
        want.shape,
        want.finite,
        want.count,
    )
    for name in ("mean", "std", "low", "high"):
        mine, theirs = getattr(got, name), getattr(want, name)
        scale = float(np.abs(values[np.isfinite(values)].astype(np.float64)).max(initial=0.0))
        assert (mine is None) == (theirs is None), name
        assert mine is None or mine == pytest.approx(theirs, rel=1e-9, abs=1e-7 * scale), name
    np.testing.assert_array_equal(got.values, want.values)
    if not np.isnan(values.astype(np.float64)).any():
        assert tuple(got.top_k) == want.top_k


def test_kept_values_are_evenly_spaced() -> None:
    """flat[i * count // n]: the first value always, the rest spread over the whole answer."""
    got = summarise(torch.arange(10_000.0), values=1024, top_k=0)
    assert got.values == [float(i * 10_000 // 1024) for i in range(1024)]
    assert got.top_k == []


@pytest.mark.parametrize(
    ("tensor", "mean"),
    [
        (torch.ones(3, dtype=torch.bfloat16), 1.0),
        (torch.ones(3, dtype=torch.bool), 1.0),
        (torch.ones(2, 3).T, 1.0),
        (torch.ones(3, dtype=torch.complex64) * 2, 1.0),
        (torch.eye(2).to_sparse(), 0.5),
        (torch.ones(3, requires_grad=True), 1.0),
        (torch.tensor(1.0), 1.0),
    ],
    ids=["bfloat16", "bool", "transposed", "complex", "sparse", "grad", "scalar"],
)
def test_every_kind_of_tensor_has_a_summary(tensor: torch.Tensor, mean: float) -> None:
    """No numpy type, no dense layout, no contiguity is needed."""
    got = summarise(tensor, values=4, top_k=1)
    assert got.mean == pytest.approx(mean)
    assert got.finite is True


def test_layout_does_not_change_the_hash() -> None:
    """Equal numbers of equal shape have one hash, whatever their strides."""
    plain = torch.arange(6.0).reshape(2, 3)
    strided = torch.arange(6.0).reshape(2, 3).T.contiguous().T
    assert summarise(plain, values=0, top_k=0) == summarise(strided, values=0, top_k=0)


@dataclass
class _Answer:
    loss: None
    logits: torch.Tensor


@pytest.mark.parametrize(
    "answer",
    [
        torch.tensor(7.0),
        (torch.tensor(7.0), torch.tensor(8.0)),
        {"name": "x", "logits": torch.tensor(7.0)},
        [{"empty": []}, {"deep": (torch.tensor(7.0),)}],
        _Answer(loss=None, logits=torch.tensor(7.0)),
    ],
    ids=["tensor", "tuple", "dict", "nested", "dataclass"],
)
def test_first_tensor_is_found(answer: object) -> None:
    """Models answer with tuples, dicts and dataclasses as often as with a tensor."""
    found = first_tensor(answer)
    assert found is not None
    assert float(found) == 7.0


def test_an_answer_without_tensor_has_none() -> None:
    """Text, numbers and None hold nothing to check."""
    assert [first_tensor(a) for a in ("text", 3.0, None, {}, [])] == [None] * 5


def test_input_is_the_same_each_time() -> None:
    """A seed gives the same numbers; another seed, shape or dtype another hash."""
    spec = {"shape": [2, 3], "dtype": "float32", "seed": 1}
    same, again = (describe_inputs(build_inputs(spec)) for _ in range(2))
    others = [describe_inputs(build_inputs(spec | c)) for c in ({"seed": 2}, {"shape": [3, 2]}, {"dtype": "float64"})]
    assert same == again == {"input_hash": same["input_hash"], "shapes": "(2, 3)", "dtype": "float32"}
    assert len({same["input_hash"], *(o["input_hash"] for o in others)}) == 4


@pytest.mark.parametrize(
    ("spec", "dtype", "low", "high"),
    [
        ({"dtype": "int64"}, torch.int64, 0, 999),
        ({"dtype": "int32", "low": 5, "high": 7}, torch.int32, 5, 6),
        ({"dtype": "bool"}, torch.bool, 0, 1),
        ({"dtype": "float16", "low": -2.0, "high": -1.0}, torch.float16, -2, -1),
        ({"dtype": "bfloat16"}, torch.bfloat16, -10, 10),
    ],
    ids=["token ids", "bounded", "mask", "uniform", "normal"],
)
def test_random_input_keeps_its_bounds(spec: dict[str, Any], dtype: torch.dtype, low: float, high: float) -> None:
    """Integers lie in [low, high); so do floats when bounds are given."""
    (tensor,), kwargs = build_inputs({"shape": [1000], **spec})
    assert (tensor.dtype, kwargs) == (dtype, {})
    assert low <= float(tensor.double().min()) < float(tensor.double().max()) <= high


def test_several_inputs_and_files(tmp_path: Path) -> None:
    """`inputs` and a saved tuple are positional arguments, a saved dict keywords."""
    args, _ = build_inputs({"inputs": [{"shape": [1]}, {"shape": [2], "dtype": "int64"}]})
    assert [tuple(a.shape) for a in args] == [(1,), (2,)]
    file = tmp_path / "x.pt"
    torch.save((torch.ones(1), torch.ones(2)), file)
    assert [tuple(a.shape) for a in build_inputs({"file": str(file)})[0]] == [(1,), (2,)]
    torch.save({"ids": torch.ones(3)}, file)
    described = describe_inputs(build_inputs({"file": str(file)}))
    assert (described["shapes"], described["dtype"]) == ("ids=(3,)", "float32")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, "needs shape"),
        ({"shape": [1], "sead": 1}, "sead"),
        ({"shape": [1], "dtype": "float33"}, "no dtype 'float33'"),
        ({"shape": [1], "dtype": "nn"}, "no dtype 'nn'"),
    ],
)
def test_a_wrong_input_is_named(spec: dict[str, Any], why: str) -> None:
    """The message holds the wrong word."""
    with pytest.raises(ValueError, match=why):
        build_inputs(spec)


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    """Not a crash later inside the model."""
    file = tmp_path / "x.pt"
    torch.save({"a": 1}, file)
    with pytest.raises(ValueError, match=r"x\.pt holds no tensor"):
        build_inputs({"file": str(file)})
