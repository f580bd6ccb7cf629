"""A bit search that never happened: a realistic value ``searches`` of a run, for the tests of the report."""

from __future__ import annotations

from typing import Any

import numpy as np

WEIGHT_BITS, ACTIVATION_BITS = (2, 3, 4, 6, 8, 16), (4, 6, 8, 16)
STAGES = (("stem", 1, 32), ("encoder", 8, 48), ("bottleneck", 9, 96), ("fusion", 4, 64), ("head", 5, 64))


def genes() -> list[dict[str, Any]]:
    """About a hundred tensors of a small encoder and decoder, in execution order; the smallest weights are fixed."""
    found = [gene("input", "input", 3 * 256 * 256)]
    side, before = 128, 3
    for stage, n_blocks, channels in STAGES:
        for block in range(n_blocks):
            for part, size in (("depthwise", 9 * before), ("pointwise", before * channels)):
                name = f"{stage}.{block}.{part}"
                found.append(gene(f"{name}.weight", "weight", size))
                found.append(gene(f"{name}.bias", "bias", channels) | {"choices": [16], "fixed": 16})
                if part == "pointwise":
                    found.append(gene(f"{name}.out", "activation", channels * side * side))
            before = channels
        side = max(16, side // 2) if stage in ("stem", "encoder") else side
    return found


def gene(name: str, kind: str, size: int) -> dict[str, Any]:
    small = kind == "weight" and size < 60
    choices = list(WEIGHT_BITS if kind == "weight" else ACTIVATION_BITS)
    return {"name": name, "kind": kind, "size": size, "choices": choices, "fixed": 16 if small else None}


def tensor(rng: np.random.Generator, g: dict[str, Any], *, odds: bool) -> dict[str, Any]:
    high = float(2.0 ** rng.uniform(-2, 3))
    low = 0.0 if g["kind"] == "activation" else -high * float(rng.uniform(0.5, 1.0))
    hurt = float(10 ** rng.uniform(-5.0, -2.0))
    widths = []
    for bits in g["choices"]:
        int_bits = int(np.ceil(np.log2(high)))
        frac_bits = bits - int_bits - (low < 0)
        widths.append(
            {
                "bits": bits,
                "int_bits": int_bits,
                "frac_bits": frac_bits,
                "clipped": float(rng.uniform(0, 0.02)) if bits < 6 else 0.0,
                "error": 0.25 * 2.0**-frac_bits,
                "distortion": hurt * 4.0 ** (4 - bits),
                "score": 0.71 - min(0.6, 3 * hurt * 4.0 ** (4 - bits)),
            }
        )
    raw = np.array([1 / (0.71 - w["score"] + 0.005) for w in widths])
    for w, p in zip(widths, raw / raw.sum(), strict=True):
        w |= {"odds": float(p)} if odds else {}
    return {"name": g["name"], "kind": g["kind"], "size": g["size"], "low": low, "high": high, "widths": widths}


def plan(rng: np.random.Generator, found: list[dict[str, Any]], mean: float) -> dict[str, int]:
    """Bits around ``mean`` for every gene."""
    drawn = {}
    for g in found:
        wanted = mean + rng.normal(0, 1.2) + (2 if g["kind"] != "weight" else 0)
        drawn[g["name"]] = g["fixed"] or min(g["choices"], key=lambda b: abs(b - wanted))
    return drawn


def size_bytes(found: list[dict[str, Any]], bits: dict[str, int]) -> float:
    return float(sum(-(-g["size"] * bits[g["name"]] // 8) for g in found if g["kind"] in ("weight", "bias")))


def ram_bytes(found: list[dict[str, Any]], bits: dict[str, int]) -> float:
    return float(max(g["size"] * bits[g["name"]] / 8 for g in found if g["kind"] == "activation"))


def score(rng: np.random.Generator, mean: float) -> float:
    return float(np.clip(0.708 - 0.9 * 2.0 ** (-1.35 * (mean - 1.5)) + rng.normal(0, 0.0015), 0.02, 0.712))


def search_value(
    rng: np.random.Generator, *, n_points: int = 150, n_tensors: int | None = None, odds: bool = True, **changes: Any
) -> dict[str, Any]:
    """One entry of ``searches``: 136 tensors, twelve members of which two were dropped."""
    found = genes()[:n_tensors]
    points: list[dict[str, Any]] = []
    for bits in (4, 6, 8, 16):
        uniform = {g["name"]: g["fixed"] or min(b for b in g["choices"] if b >= bits) for g in found}
        points.append(
            {
                "score": score(rng, bits) - 0.02 * (bits < 8),
                "costs": [size_bytes(found, uniform), ram_bytes(found, uniform)],
                "label": f"uniform {bits}",
            }
        )
    for n in range(n_points):
        mean = float(rng.uniform(2.4, 9))
        bits_of = plan(rng, found, mean)
        late = min(1.0, n / (0.6 * n_points))
        reached = score(rng, mean) - (1 - late) * float(rng.gamma(1.5, 0.02)) - float(rng.gamma(1.0, 0.006))
        points.append({"score": max(0.01, reached), "costs": [size_bytes(found, bits_of), ram_bytes(found, bits_of)]})
    front = []
    for n, mean in enumerate(np.linspace(2.6, 9, 12)):
        bits_of = plan(rng, found, float(mean))
        front.append(
            {
                "candidate": "" if n in (0, 4) else f"{n:012x}",
                "score": score(rng, float(mean)),
                "costs": [size_bytes(found, bits_of), ram_bytes(found, bits_of)],
                "bits": bits_of,
                "dropped": {0: "held-out data: loses 1.4 points more than on val", 4: "dominated within noise"}.get(
                    n, ""
                ),
            }
        )
    for m in front:
        points.insert(int(rng.integers(4, len(points))), {"score": m["score"], "costs": list(m["costs"])})
    for p in points:
        p["front"] = not any(q is not p and q["score"] >= p["score"] and q["costs"][0] <= p["costs"][0] for q in points)
    value = {
        "architecture": "256x256 width=0.5",
        "method": "surrogate",
        "seed": 0,
        "float_score": 0.7093,
        "floor": 0.6993,
        "n_evaluations": 171.4,
        "seconds": 412.0,
        "costs": ["flash", "ram"],
        "genes": found,
        "points": points,
        "front": front,
        "tensors": [tensor(rng, g, odds=odds) for g in found],
    }
    return value | changes
