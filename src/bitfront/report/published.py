"""What theses 001 and 004 published of the configurations that they tried, to be set beside what a run measures.

Foreground IoU per image, mean, of Fast-SCNN on photographs of packages on a conveyor (Kaggle, "industrial quality
control of packages"); its test images are others than those of any val part. Source: thesis 001, tables 4.6, 4.7, 4.9,
4.12, 4.15, 4.19 and 4.23.

Seconds an image, with pre- and postprocessing, on an i.MX 8M Plus (four Cortex-A53), and mAP at 0.5 on
pictures of COCO's val part. Source: thesis 004, table 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["published_detector", "published_score"]

MODEL, DATA = "fast_scnn", "packages"

PUBLISHED: Mapping[str, Mapping[tuple[int, int], Mapping[tuple[float, int, int, int], float]]] = {
    "resolution": {
        (512, 3): {(1, 6, 3, 0): 0.9792},
        (256, 3): {(1, 6, 3, 0): 0.544},
        (224, 3): {(1, 6, 3, 0): 0.4361},
        (192, 3): {(1, 6, 3, 0): 0.2583},
        (160, 3): {(1, 6, 3, 0): 0.2137},
        (128, 3): {(1, 6, 3, 0): 0.2208},
        (96, 3): {(1, 6, 3, 0): 0.1602},
    },
    "retraining": {
        (512, 3): {(1, 6, 3, 0): 0.9788},
        (256, 3): {(1, 6, 3, 0): 0.9729},
        (224, 3): {(1, 6, 3, 0): 0.9708},
        (192, 3): {(1, 6, 3, 0): 0.9723},
        (160, 3): {(1, 6, 3, 0): 0.9641},
        (128, 3): {(1, 6, 3, 0): 0.9564},
        (96, 3): {(1, 6, 3, 0): 0.9393},
    },
    "channels": {
        (512, 1): {(1, 6, 3, 0): 0.9715},
        (256, 1): {(1, 6, 3, 0): 0.9542},
        (224, 1): {(1, 6, 3, 0): 0.9458},
        (192, 1): {(1, 6, 3, 0): 0.9335},
        (160, 1): {(1, 6, 3, 0): 0.9227},
        (128, 1): {(1, 6, 3, 0): 0.9219},
        (96, 1): {(1, 6, 3, 0): 0.8974},
    },
    "width": {
        (512, 3): {
            (1, 6, 3, 1): 0.9777,
            (0.75, 6, 3, 1): 0.9771,
            (0.5, 6, 3, 1): 0.9782,
            (0.25, 6, 3, 1): 0.9762,
            (0.125, 6, 3, 1): 0.9711,
            (0.75, 4, 3, 1): 0.9778,
            (0.5, 4, 3, 1): 0.9773,
            (0.25, 4, 3, 1): 0.9738,
            (0.125, 4, 3, 1): 0.9716,
            (0.75, 2, 3, 1): 0.9788,
            (0.5, 2, 3, 1): 0.9774,
            (0.25, 2, 3, 1): 0.974,
            (0.125, 2, 3, 1): 0.9686,
        },
    },
    "repeats": {
        (512, 3): {
            (1, 6, 3, 1): 0.9777,
            (1, 6, 3, 0): 0.9792,
            (1, 6, 2, 1): 0.9741,
            (1, 6, 2, 0): 0.975,
            (1, 6, 1, 1): 0.9778,
            (1, 6, 1, 0): 0.9802,
        },
    },
    "shapes": {
        (512, 3): {
            (0.25, 6, 2, 0): 0.9744,
            (0.25, 6, 1, 0): 0.9747,
            (0.25, 4, 2, 0): 0.9711,
            (0.25, 4, 1, 0): 0.9733,
            (0.25, 2, 2, 0): 0.9733,
            (0.25, 2, 1, 0): 0.9702,
            (0.125, 6, 2, 0): 0.9739,
            (0.125, 6, 1, 0): 0.9701,
            (0.125, 4, 2, 0): 0.9717,
            (0.125, 4, 1, 0): 0.9614,
            (0.125, 2, 2, 0): 0.9706,
            (0.125, 2, 1, 0): 0.9677,
        },
    },
    "combination": {
        (512, 3): {
            (1, 6, 1, 0): 0.9789,
            (0.25, 6, 1, 0): 0.9733,
            (0.125, 6, 2, 0): 0.9679,
            (0.125, 4, 2, 0): 0.9717,
            (0.125, 2, 2, 0): 0.9703,
            (0.125, 2, 1, 0): 0.9651,
        },
        (256, 3): {
            (1, 6, 1, 0): 0.9711,
            (0.25, 6, 1, 0): 0.9636,
            (0.125, 6, 2, 0): 0.9613,
            (0.125, 4, 2, 0): 0.9524,
            (0.125, 2, 2, 0): 0.9541,
            (0.125, 2, 1, 0): 0.9391,
        },
        (192, 3): {
            (1, 6, 1, 0): 0.9703,
            (0.25, 6, 1, 0): 0.9588,
            (0.125, 6, 2, 0): 0.9492,
            (0.125, 4, 2, 0): 0.9493,
            (0.125, 2, 2, 0): 0.9476,
            (0.125, 2, 1, 0): 0.9275,
        },
        (160, 3): {
            (1, 6, 1, 0): 0.9621,
            (0.25, 6, 1, 0): 0.9487,
            (0.125, 6, 2, 0): 0.9386,
            (0.125, 4, 2, 0): 0.9327,
            (0.125, 2, 2, 0): 0.9379,
            (0.125, 2, 1, 0): 0.9317,
        },
        (128, 3): {
            (1, 6, 1, 0): 0.957,
            (0.25, 6, 1, 0): 0.9397,
            (0.125, 6, 2, 0): 0.9143,
            (0.125, 4, 2, 0): 0.9255,
            (0.125, 2, 2, 0): 0.9125,
            (0.125, 2, 1, 0): 0.93,
        },
        (96, 3): {
            (1, 6, 1, 0): 0.9387,
            (0.25, 6, 1, 0): 0.9101,
            (0.125, 6, 2, 0): 0.9053,
            (0.125, 4, 2, 0): 0.9051,
            (0.125, 2, 2, 0): 0.9027,
            (0.125, 2, 1, 0): 0.9054,
        },
    },
}
"""Stage -> (side in pixels, input channels) -> (width, expansion, repeats, pyramid) -> score."""


def published_score(stage: str, model: str, data: str, knobs: Mapping[str, Any]) -> float | None:
    """Return the published score of a configuration in [0, 1]; ``None`` where there is none.

    Args:
        stage: name of the stage.
        model: name of the network family.
        data: name of the data.
        knobs: the configuration; the resolution as ``(height, width)``.
    """
    if (model, data) != (MODEL, DATA):
        return None
    try:
        side, other = knobs["resolution"]
        shape = float(knobs["width"]), int(knobs["expansion"]), int(knobs["repeats"]), int(knobs["pyramid"])
    except (KeyError, TypeError, ValueError):
        return None
    table = PUBLISHED.get(stage, {}).get((side, int(knobs.get("channels", 3))), {})
    return table.get(shape) if side == other else None


DETECTORS: Mapping[tuple[str, int], Mapping[tuple[str, str], tuple[float, float]]] = {
    ("yolo_v5n", 640): {
        ("onnxruntime", "float32"): (0.691, 0.454),
        ("onnxruntime", "dynamic"): (0.671, 0.438),
        ("litert", "float16"): (1.259, 0.454),
        ("litert", "dynamic"): (0.826, 0.431),
    },
    ("yolo_v5n", 320): {("onnxruntime", "dynamic"): (0.191, 0.35)},
    ("yolo_v5s", 640): {
        ("onnxruntime", "float32"): (2.061, 0.539),
        ("onnxruntime", "dynamic"): (1.702, 0.533),
        ("litert", "float16"): (2.335, 0.547),
        ("litert", "dynamic"): (1.7, 0.529),
    },
    ("yolo_v5s", 320): {("onnxruntime", "dynamic"): (0.443, 0.462)},
    ("ssd_mobilenet_v1", 640): {
        ("onnxruntime", "float32"): (0.451, 0.216),
        ("onnxruntime", "dynamic"): (0.416, 0.155),
    },
    ("ssd_mobilenet_v1", 320): {("onnxruntime", "dynamic"): (0.445, 0.149)},
}
"""(network, side in pixels) -> (runtime, recipe) -> seconds an image, mAP at 0.5."""


def published_detector(model: str, side: int, runtime: str, recipe: str) -> tuple[float, float] | None:
    """Return the published seconds an image and mAP at 0.5 of a detector's file; ``None`` where there are none."""
    return DETECTORS.get((model, side), {}).get((runtime, recipe))
