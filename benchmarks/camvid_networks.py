"""CamVid through ``bitfront fit``: Fast-SCNN, BiSeNetV2 and DeepLabV3+ at the same settings, in one table.

    python benchmarks/camvid_networks.py --data ../shared/data/camvid

All three are trained from scratch on 11 classes, at one small size and a small width, for the same few epochs: enough
to show that they learn from real data and become verified files, not what they can reach. Scores: mIoU at the size of
the photographs (480 x 360) on ``val``, of the exported file. Started again with the same ``--runs`` it goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from machine import machine

import bitfront
from bitfront.pipeline import resume
from bitfront.run import Run
from bitfront.store import atomic_json, atomic_write

RESULT = Path(__file__).with_name("results") / "camvid_networks.json"
NETWORKS = {
    "fast_scnn": {"width": 0.5},
    "bisenet_v2": {"width": 0.25},
    "deeplab_v3plus_mobilenet_v2": {"width": 0.5, "head_width": 0.5},
}
RECIPES = ("int8_mixed",)


def fitted(name: str, args: argparse.Namespace) -> Run:
    """Run the fit of one network, or go on with it."""
    folder = args.runs / f"camvid_{name}"
    if folder.exists():
        return resume(folder)
    return bitfront.fit(
        name, str(args.data), settings=NETWORKS[name], space={"resolution": [tuple(args.size)]}, recipes=RECIPES,
        epochs=args.epochs, learning_rate=args.rate, runs=args.runs, name=folder.name,
    )  # fmt: skip


def rows_of(name: str, run: Run) -> list[dict]:
    """Return what is known of each file."""
    return [
        {
            "network": name,
            "settings": NETWORKS[name],
            "recipe": record.candidate.recipe,
            "status": record.status,
            "miou": record.val.values["miou"],
            "pixel_accuracy": record.val.values["pixel_accuracy"],
            "parameters": record.parameters,
            "macs": record.macs,
            "latency_ms": record.latency.value if record.latency else None,
            "size_bytes": record.artifact.size_bytes,
            "verified": record.agreement.verified,
            "train_seconds": round(record.train_seconds or 0.0, 1),
        }
        for record in run.records()
        if record.val is not None and record.artifact is not None and record.agreement is not None
    ]


def table(rows: list[dict]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| network | recipe | mIoU, % | pixels, % | parameters, M | MACs, M | ms | kB | verified | trained, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        latency = f"{r['latency_ms']:.2f}" if r["latency_ms"] is not None else ""
        knobs = " ".join(f"{key}={value}" for key, value in r["settings"].items())
        lines.append(
            f"| {r['network']} {knobs} | {r['recipe']} | {100 * r['miou']:.1f} | {100 * r['pixel_accuracy']:.1f} | "
            f"{r['parameters'] / 1e6:.2f} | {r['macs'] / 1e6:.0f} | {latency} | {r['size_bytes'] / 1000:.0f} | "
            f"{'yes' if r['verified'] else 'no'} | {r['train_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 160), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    rows: list[dict] = []
    for name in NETWORKS:
        rows += rows_of(name, fitted(name, args))
        report = {
            "benchmark": "camvid_networks",
            "command": " ".join(["python", "benchmarks/camvid_networks.py", *sys.argv[1:]]),
            "machine": machine(),
            "part": "val",
            "size": list(args.size),
            "epochs": args.epochs,
            "rate": args.rate,
            "rows": rows,
        }
        args.result.parent.mkdir(parents=True, exist_ok=True)
        atomic_json(args.result, report)
        atomic_write(args.result.with_suffix(".md"), table(rows).encode())
    print(table(rows))


if __name__ == "__main__":
    main()
