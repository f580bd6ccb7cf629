"""YOLOv5n in every engine against torch, and against other people's files: how many boxes have a twin.

A box with a score above .3 has a twin when the other engine gives a box of its class with an IoU of .95 and more and a
score within .02. Both directions are counted, the worse one is what is reported.

    python benchmarks/detector_agreement.py IMAGES --weights yolov5n.safetensors --coco8 COCO8 \\
        --theirs yolov5n.tflite --theirs-quantized yolov5n_quant.tflite yolov5n_quant.onnx
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import machine

from bitfront.contracts import Prediction
from bitfront.decode import EXTENSIONS, read_image
from bitfront.images import preprocess
from bitfront.tasks.detection_boxes import areas, intersections
from bitfront.train.checkpoints import save_checkpoint
from bitfront.verbs.answering import FOR_PICTURES, with_thresholds
from bitfront.verbs.making import export, quantize
from bitfront.verbs.opening import open_both, open_session
from bitfront.verbs.scoring import evaluate

RESULTS = Path(__file__).parent / "results"
SCORE, IOU = 0.3, 0.95
SIZE = {"resolution": (640, 640)}
Answers = list[Prediction]


def answers(model: str, data: str, images: list[Path], **options: object) -> Answers:
    """Every picture's boxes down to a score of .2, as they are shown to people."""
    opened = open_both(model, data, task="detection", **options)
    task, source = with_thresholds(opened.task, {"confidence": 0.2}, FOR_PICTURES), opened.source
    session = open_session(source)
    found = []
    for path in images:
        image = read_image(path)
        outputs = session.run(preprocess(image, source.input)[None])
        found += task.predict(outputs, source.output, [image.shape[:2]], source.input)
    session.close()
    return found


def twins(a: Answers, b: Answers, score: float) -> tuple[int, int]:
    """Boxes of ``a`` above .3, and how many of them have a twin in ``b``."""
    n, paired = 0, 0
    for one, other in zip(a, b, strict=True):
        for box, label, own in zip(one.boxes, one.labels, one.scores, strict=True):
            if own <= SCORE:
                continue
            n += 1
            alike = (other.labels == label) & (np.abs(other.scores - own) <= score)
            if alike.any():
                near = other.boxes[alike]
                common = intersections(box[None], near)[0]
                paired += bool((common / (areas(box[None]) + areas(near) - common) >= IOU).any())
    return n, paired


def agreement(a: Answers, b: Answers, score: float = 0.02) -> dict[str, object]:
    """Twins in both directions; ``share`` is the worse one."""
    (n, there), (m, back) = twins(a, b, score), twins(b, a, score)
    return {"n": [n, m], "twins": [there, back], "share": min(there / max(n, 1), back / max(m, 1))}


def folded(theirs: Path, quantized: Path, family: object) -> dict[str, np.ndarray]:
    """The weights of thesis 004's float16 file under our keys: names and biases come from its quantized ONNX file."""
    import onnx
    from ai_edge_litert.interpreter import Interpreter

    from bitfront.models.yolo_v5 import EPSILON

    interpreter = Interpreter(str(theirs))
    interpreter.allocate_tensors()
    details = [t for t in interpreter.get_tensor_details() if t["dtype"] == np.float16 and len(t["shape"]) == 4]
    constants = [interpreter.get_tensor(t["index"]).astype(np.float32).transpose(0, 3, 1, 2) for t in details]
    known = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(quantized).graph.initializer}
    state: dict[str, np.ndarray] = {}
    for name in (key.removesuffix("_quantized") for key in known if key.endswith("weight_quantized")):
        scale, zero = (known[f"{name}_{w}"].astype(np.float32).reshape(-1, 1, 1, 1) for w in ("scale", "zero_point"))
        coarse = (known[f"{name}_quantized"].astype(np.float32) - zero) * scale
        alike = [c for c in constants if c.shape == coarse.shape]
        weight = max(alike, key=lambda c: np.corrcoef(c.ravel(), coarse.ravel())[0, 1])
        ours, bias = family.rename(name), known[name.replace("weight", "bias")]
        state[ours] = weight
        if ours.startswith("predict"):
            state[ours.replace("weight", "bias")] = bias
            continue
        ones, norm = np.ones_like(bias), ours.replace("conv.weight", "bn.")
        state |= {f"{norm}weight": ones, f"{norm}bias": bias, f"{norm}running_mean": 0 * ones}
        state[f"{norm}running_var"] = (1 - EPSILON) * ones
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--coco8", type=Path, required=True)
    parser.add_argument("--theirs", type=Path, help="float16 .tflite of the original")
    parser.add_argument("--theirs-quantized", type=Path, nargs="*", default=[])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--result", type=Path, default=RESULTS / "detector_agreement.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    images = sorted(p for p in args.images.iterdir() if p.suffix.lower() in EXTENSIONS)[: args.limit]
    found: dict[str, object] = {"n_images": len(images), "resolution": [640, 640], "score": SCORE, "iou": IOU}

    def say(name: str, value: object) -> None:
        print(name, json.dumps(value), file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = work / "coco8.yaml"
        data.write_text(f"path: {args.coco8.resolve()}\ntrain: images/train\nval: images/val\nnames: coco\n")
        weighted = {"weights": args.weights, "settings": SIZE}
        files = made(str(data), args.weights, work)
        run: Callable[..., Answers] = lambda model, **o: answers(str(model), str(data), images, **o)  # noqa: E731
        base = run("yolo_v5n", **weighted)
        rows = {}
        for name, path in files.items():
            rows[name] = agreement(base, run(path))
            say(name, rows[name])
        found["against torch, our weights"] = rows
        scores = {}
        for name, path in {"torch": "yolo_v5n", **files}.items():
            more = weighted if name == "torch" else {}
            values = [evaluate(str(path), str(data), part=p, **more).metrics.values for p in ("train", "val")]
            scores[name] = {key: [v[key] for v in values] for key in ("map50", "map")}
            say(name, scores[name])
        found["mAP on coco8, train and val"] = scores
        if args.theirs:
            rows = theirs_against_ours(args, work, str(data), run)
            say("theirs", rows)
            found["against the original's files, their weights"] = rows
    found |= {"seconds": time.time() - start, "machine": machine()}
    found["command"] = "python benchmarks/detector_agreement.py IMAGES --weights ... --coco8 ... --theirs ..."
    args.result.write_text(json.dumps(found, indent=1))


def made(data: str, weights: Path, work: Path) -> dict[str, Path]:
    """Our files, by engine and recipe; integers are calibrated on the four training pictures of coco8."""
    common = {"weights": weights, "settings": SIZE}
    files = {}
    for engine, ending in (("onnxruntime", "onnx"), ("litert", "tflite")):
        for recipe in ("float32", "float16", "int8", "int8_mixed", "dynamic"):
            path = work / f"{engine}_{recipe}.{ending}"
            quantize("yolo_v5n", data, path, recipe=recipe, runtime=engine, part="val", **common)
            files[f"{engine} {recipe}"] = path
    return files


def theirs_against_ours(
    args: argparse.Namespace, work: Path, data: str, run: Callable[..., Answers]
) -> dict[str, object]:
    """Our network with the original's weights against its own file, and that file against its quantized ones."""
    from bitfront.models.yolo_v5 import YoloV5n

    own = next(p for p in args.theirs_quantized if p.suffix == ".onnx")
    weights = work / "theirs.safetensors"
    save_checkpoint(weights, folded(args.theirs, own, YoloV5n), {"model": "yolo_v5n", "task": "detection"})
    rows: dict[str, object] = {}
    base = run(args.theirs)
    rows["torch"] = agreement(base, run("yolo_v5n", weights=weights, settings=SIZE), 0.03)
    for engine, ending in (("onnxruntime", "onnx"), ("litert", "tflite")):
        path = work / f"theirs_{engine}.{ending}"
        export("yolo_v5n", path, data=data, runtime=engine, weights=weights, settings=SIZE)
        rows[f"{engine} float32"] = agreement(base, run(path), 0.03)
    for path in args.theirs_quantized:
        rows[path.name] = agreement(base, run(path), 0.03)
    return rows


if __name__ == "__main__":
    main()
