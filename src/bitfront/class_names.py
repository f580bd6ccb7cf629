"""The classes of well-known detection data, and class names as users give them."""

from __future__ import annotations

from pathlib import Path

from bitfront.errors import UsageError

__all__ = ["COCO_CLASSES", "COCO_IDS", "VOC_CLASSES", "named_classes", "usual_names"]

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO's objects (Lin et al. 2014), in the order of detectors."""

COCO_IDS = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 27, 28, 31, 32, 33, 34, 35,
    36, 37, 38, 39, 40, 41, 42, 43, 44, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64,
    65, 67, 70, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 84, 85, 86, 87, 88, 89, 90,
)  # fmt: skip
"""The number of each class in COCO's own files, which count to 90 and leave some out."""

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes of PASCAL VOC's objects (Everingham et al. 2010), in the order of detectors."""

KNOWN = {"coco": COCO_CLASSES, "voc": VOC_CLASSES}


def named_classes(text: str) -> tuple[str, ...]:
    """Return the classes of ``coco``, ``voc``, a file with one name a line, or ``a,b,c``.

    Raises UsageError for what is none of these, and for names given twice.
    """
    if text.lower() in KNOWN:
        return KNOWN[text.lower()]
    path = Path(text).expanduser()
    lines = _lines(path) if path.is_file() else text.split(",")
    found = tuple(name for line in lines if (name := line.strip()))
    if not path.is_file() and len(found) < 2 and ("/" in text or "." in text):
        raise UsageError(f"--labels: no file '{text}'", hint="give coco, voc, a file with one name a line, or a,b,c")
    if not found:
        raise UsageError(f"--labels: '{text}' names no class", hint="one name a line, or a,b,c")
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UsageError(f"--labels: '{twice}' is there twice", hint="every class has a name of its own")
    return found


def usual_names(n: int) -> tuple[str, ...]:
    """Return the names of ``n`` classes of objects that nobody named: COCO's 80, VOC's 20, else numbers."""
    return next((names for names in KNOWN.values() if len(names) == n), tuple(f"class_{i}" for i in range(n)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels: '{path}' cannot be read as text", hint="one name a line, UTF-8") from error
