from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.graph.ir import Graph, Node, Tensor
from bitfront.stats.ranges import BINS, RULES, Range, Ranges, collect

Values = NDArray[np.float32]
VALUES = hnp.arrays(np.float32, (4, 3, 5), elements=st.floats(-1e4, 1e4, width=32))


def same(a: Range, b: Range) -> bool:
    plain = (a.low, a.high, a.exponent, a.start) == (b.low, b.high, b.exponent, b.start)
    return plain and np.array_equal(a.counts, b.counts) and np.allclose(a.sums, b.sums, rtol=1e-9, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(VALUES, st.permutations(range(4)))
def test_splits_and_orders_of_the_data_do_not_matter(x: Values, order: list[int]) -> None:
    parts = [Range.of(x[i : i + 1]) for i in order]
    left = parts[0] + parts[1] + parts[2] + parts[3]
    right = parts[0] + (parts[1] + (parts[2] + parts[3]))
    assert same(left, Range.of(x))
    assert same(right, Range.of(x))


@settings(max_examples=25, deadline=None)
@given(VALUES)
def test_the_histogram_counts_every_value_in_its_bin(x: Values) -> None:
    r = Range.of(x)
    assert r.counts.size <= BINS
    assert r.count == x.size
    assert r.counts[0] > 0
    assert r.counts[-1] > 0
    edges = np.ldexp(np.arange(r.start, r.start + r.counts.size + 1, dtype=np.float64), r.exponent)
    assert np.histogram(x, edges)[0].tolist() == r.counts.tolist()
    assert (r.low, r.high) == (x.min(), x.max())
    assert np.allclose(r.means, x.mean((0, 2), dtype=np.float64))
    assert r.mean == pytest.approx(x.mean(dtype=np.float64), rel=1e-9, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(VALUES, st.sampled_from(RULES), st.booleans(), st.sampled_from([4, 8]))
def test_chosen_ends_enclose_zero_and_stay_inside_the_extremes(
    x: Values, rule: str, symmetric: bool, bits: int
) -> None:
    low, high = Range.of(x).choose(rule, bits, symmetric=symmetric)
    widest = Range.of(x).choose("minmax", symmetric=symmetric)
    assert widest[0] <= low <= 0 <= high <= widest[1]
    assert not symmetric or low == -high


@pytest.mark.parametrize(("high", "n_bins"), [(2047.0, 2048), (2048.0, 1025), (2047.999, 2048)])
def test_histograms_end_at_the_last_bin(high: float, n_bins: int) -> None:
    assert Range.of(np.float32([[0.0, high]])).counts.size == n_bins


def test_widening_keeps_counts_over_many_magnitudes() -> None:
    r = Range.of(np.full((1, 1, 7), 1e-6))
    for value in (1e-3, 1.0, -1e3, 1e6):
        r += Range.of(np.full((1, 1, 5), value))
    assert r.count == 27
    assert r.counts.size <= BINS
    assert (r.low, r.high) == (-1000, 1e6)


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-30, 3e38, -1e-45])
def test_constant_tensors_have_a_range(value: float) -> None:
    r = Range.of(np.full((2, 3, 4), value, np.float32))
    for rule in RULES:
        low, high = r.choose(rule)
        assert low == pytest.approx(min(r.low, 0.0))
        assert high == pytest.approx(max(r.high, 0.0))


def test_quantiles_are_exact_to_one_bin(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 4, 5000)).astype(np.float32)
    r = Range.of(x)
    for fraction in (0.0, 0.001, 0.25, 0.5, 0.999, 1.0):
        assert r.quantile(fraction) == pytest.approx(np.quantile(x, fraction), abs=2.0**r.exponent)


def test_percentile_cuts_outliers_and_mse_finds_the_best_clip(rng: np.random.Generator) -> None:
    x = rng.laplace(size=(1, 2, 20000)).astype(np.float32)
    x[0, 0, 0] = 100.0
    r = Range.of(x)
    low, high = r.choose("percentile", percentile=99.0)
    assert -7 < low < -3 < 3 < high < 7
    for bits in (4, 8):
        ends = r.choose("mse", bits, symmetric=True)
        tries = np.linspace(1, 100, 400)
        true = [exact_error(x, -t, t, bits) for t in tries]
        assert exact_error(x, *ends, bits) <= min(true) * 1.05
        assert r.error(*ends, bits) == pytest.approx(exact_error(x, *ends, bits), rel=0.1)


def exact_error(x: Values, low: float, high: float, bits: int) -> float:
    step = (high - low) / (2**bits - 1)
    zero = np.round(-low / step)
    codes = np.clip(np.round(x / step) + zero, 0, 2**bits - 1)
    return float(np.mean(((codes - zero) * step - x.astype(np.float64)) ** 2))


@pytest.mark.parametrize(("values", "what"), [([np.nan], "not finite"), ([1, np.inf], "not finite"), ([], "no values")])
def test_values_must_be_finite(values: list[float], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Range.of(np.asarray(values, np.float32).reshape(1, -1))


def test_unknown_rules_and_unlike_channels_are_refused() -> None:
    r = Range.of(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="unknown range rule 'max'"):
        r.choose("max")
    with pytest.raises(ValueError, match="2 and 3 channels"):
        r + Range.of(np.zeros((1, 3)))


def test_json_round_trip(rng: np.random.Generator) -> None:
    ranges = Ranges({"a": Range.of(rng.normal(size=(2, 3, 9))), "b": Range.of(np.zeros((1, 1)))})
    again = Ranges.from_json(json.loads(json.dumps(ranges.to_json())))
    assert list(again) == list(ranges)
    assert all(same(again[n], ranges[n]) for n in ranges)


# --- collect ---------------------------------------------------------------------------------------------------------
def doubling() -> Graph:
    tensors = {n: Tensor(n, (1, 1, 2, 2), k) for n, k in [("x", "input"), ("y", "activation"), ("z", "activation")]}
    nodes = (Node("add", "add", ("x", "x"), "y"), Node("neg", "neg", ("y",), "z"))
    return Graph(nodes, tensors, {}, ("x",), ("z",))


def observe(images: Values) -> dict[str, Values]:
    return {"y": 2 * images, "z": -2 * images, "unknown": images}


def test_collect_streams_batches(rng: np.random.Generator) -> None:
    batches = [rng.normal(size=(2, 1, 2, 2)).astype(np.float32) for _ in range(5)]
    ranges = collect(doubling(), iter(batches), observe)
    assert list(ranges) == ["x", "y", "z"]
    whole = np.concatenate(batches)
    assert same(ranges["x"], Range.of(whole))
    assert same(ranges["z"], Range.of(-2 * whole))
    first, second = collect(doubling(), batches[:2], observe), collect(doubling(), batches[2:], observe)
    assert all(same((first + second)[n], ranges[n]) for n in ranges)


def test_collect_names_what_is_wrong() -> None:
    image = np.ones((1, 1, 2, 2), np.float32)
    with pytest.raises(DataError, match="no images to calibrate on"):
        collect(doubling(), [], observe)
    with pytest.raises(DataError, match="tensor 'y': values are not finite"):
        collect(doubling(), [image], lambda x: {"y": x / np.float32(np.nan), "z": x})
    with pytest.raises(DataError, match="never saw tensor 'z'"):
        collect(doubling(), [image], lambda x: {"y": x})


def test_ranges_agree_with_the_calibrators_of_onnx_runtime(tmp_path: Path, rng: np.random.Generator) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate", reason="the oracle is not installed")
    from onnx import TensorProto, helper, save

    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 96, 96]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", info[:1], info[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "m.onnx")
    batches = [rng.normal(size=(1, 4, 96, 96)).astype(np.float32) * (i + 1) for i in range(4)]

    class Reader(calibrate.CalibrationDataReader):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Values] | None:
            x = next(self.left, None)
            return None if x is None else {"x": x}

    mine = Range.of(np.concatenate(batches))
    method, options = calibrate.CalibrationMethod, {"percentile": 99.0, "num_bins": 2048, "symmetric": False}
    for kind, extra, ends in [
        (method.MinMax, {}, mine.choose("minmax")),
        (method.Percentile, options, mine.choose("percentile", percentile=99.0)),
    ]:
        theirs = calibrate.create_calibrator(
            tmp_path / "m.onnx", [], str(tmp_path / "a.onnx"), kind, extra_options=extra
        )
        theirs.set_execution_providers(["CPUExecutionProvider"])
        theirs.collect_data(Reader())
        low, high = (float(np.squeeze(end)) for end in theirs.compute_data()["x"].range_value)
        span = max(2.0**mine.exponent, 2 * np.abs(np.concatenate(batches)).max() / 2048)
        assert ends[0] == pytest.approx(low, abs=span)
        assert ends[1] == pytest.approx(high, abs=span)
