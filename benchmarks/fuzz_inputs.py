"""Damage images, masks and data YAMLs at random and use them: every outcome is a result or one clear line.

    python benchmarks/fuzz_inputs.py [N] [--seed S] [--out FILE]

Counts results, refusals (by error class) and tracebacks, of which there must be none; ``--keep`` saves their files.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bitfront.batches import evaluation
from bitfront.contracts import Dataset, InputContract
from bitfront.data.described import Described
from bitfront.data.folder import Folder
from bitfront.errors import BitfrontError
from bitfront.images import overlay, png
from bitfront.scan import examine

SIZE = (48, 64)
YAML = """path: .
train: train/images
val: [train/images]
names: {0: background, 1: carton, 2: tube}
nc: 3
masks_dir: masks
label_mapping: {7: 2, 9: ignore_label}
ignore_label: 255
background: 0
mean: [0.485, 0.456, 0.406]
std: [0.229, 0.224, 0.225]
resize: bilinear
"""
TOKENS = (
    "&a", "*a", "!!python/object/apply:os.system [id]", "[" * 200, "{" * 30, "---", "...", "\t", "\x00", "\ufeff",
    "null", "~", "-1", "1e309", ".nan", "0x10", "1_000", "2026-13-45", "yes", "''", '"', "'", "|", ">", "? ", "- ",
    ": ", "#", "%", "../../..", "/", "a" * 5000, "999999999999999999999", "names:", "train:", "<<: {a: 1}", "ü",
    "\u202e", "train.txt",
)  # fmt: skip


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def sound_images(rng: np.random.Generator) -> list[tuple[str, bytes]]:
    """One file of every format and depth that is read."""
    height, width = SIZE
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 4, y * 5, (x + y) * 2], axis=2).astype(np.uint8) ^ rng.integers(0, 8, (*SIZE, 3)).astype(
        np.uint8
    )
    exif = Image.Exif()
    exif[0x0112] = 3
    picture, grey = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    return [
        ("jpg", encoded(picture, "JPEG", quality=90)),
        ("jpg", encoded(picture, "JPEG", progressive=True, exif=exif.tobytes())),
        ("jpg", encoded(picture.convert("CMYK"), "JPEG")),
        ("png", encoded(picture, "PNG", exif=exif.tobytes())),
        ("png", encoded(grey, "PNG")),
        ("png", encoded(picture.convert("RGBA"), "PNG")),
        ("png", encoded(picture.quantize(16), "PNG")),
        ("png", encoded(Image.fromarray(rgb[..., 0].astype(np.uint16) * 257), "PNG")),
        ("bmp", encoded(picture, "BMP")),
        ("tif", encoded(picture, "TIFF")),
        ("tif", encoded(picture, "TIFF", compression="tiff_lzw")),
        ("webp", encoded(picture, "WEBP")),
    ]


def sound_masks(rng: np.random.Generator) -> list[bytes]:
    """Index, palette, 1-bit, 16-bit and three-channel masks."""
    labels = rng.integers(0, 3, (6, 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    palette = Image.fromarray(labels, "P")
    palette.putpalette([v for i in range(256) for v in (i, 255 - i, 9)])
    return [
        encoded(Image.fromarray(labels), "PNG"),
        encoded(palette, "PNG"),
        encoded(Image.fromarray(labels > 0), "PNG"),
        encoded(Image.fromarray(labels.astype(np.uint16)), "PNG"),
        encoded(Image.fromarray(labels[..., None].repeat(3, 2)), "PNG"),
        encoded(Image.fromarray(labels), "TIFF"),
    ]


@dataclass(frozen=True)
class Sound:
    """Files without damage."""

    images: list[tuple[str, bytes]]
    masks: list[bytes]


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut, overwrite, insert, repeat or swap; headers are hit more often than the rest."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        reach = min(len(changed), 64) if rng.random() < 0.4 else len(changed)
        if not reach:
            break
        at, length = int(rng.integers(reach)), int(rng.integers(1, 17))
        match int(rng.integers(7)):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                del changed[at:]
            case 2:
                changed[at : at + length] = rng.bytes(length)
            case 3:
                changed[at:at] = rng.bytes(length)
            case 4:
                changed[at:at] = changed[: at // 2]
            case 5:
                changed[at : at + 4] = int(rng.choice((0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1))).to_bytes(4, "big")
            case 6:
                del changed[at : at + length]
    damaged = bytes(changed)
    return with_checksums(damaged) if rng.random() < 0.6 else damaged


def unexpected(rng: np.random.Generator) -> bytes:
    """Return a sound file of another size, depth, orientation or range of values than anybody would expect."""
    size = SIZE if rng.random() < 0.6 else tuple(int(v) for v in rng.integers(1, 90, 2))
    values = rng.integers(0, int(rng.choice((2, 3, 4, 11, 256))), size).astype(np.uint8)
    if rng.random() < 0.3:
        values[values == 2] = 255
    image = Image.fromarray(values)
    mode = str(rng.choice(("L", "P", "1", "I;16", "RGB", "RGBA", "LA", "F", "I", "CMYK")))
    image = (
        Image.fromarray(values.astype(np.uint16) * int(rng.choice((1, 300)))) if mode == "I;16" else image.convert(mode)
    )
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 10))
    kind = "TIFF" if mode in ("F", "I", "CMYK") else str(rng.choice(("PNG", "TIFF")))
    return encoded(image, kind, exif=exif.tobytes())


def with_checksums(data: bytes) -> bytes:
    """Make the checksums of a PNG's chunks right again, so that the damage reaches the decoder."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed)


def damage_text(text: str, rng: np.random.Generator) -> bytes:
    """Replace, insert, drop and repeat lines and words of a configuration."""
    lines = text.splitlines()
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines))) if lines else 0
        token = str(rng.choice(TOKENS))
        match int(rng.integers(6)) if lines else 5:
            case 0:
                lines[at] = lines[at].partition(":")[0] + ": " + token
            case 1:
                del lines[at]
            case 2:
                lines[at:at] = [lines[int(rng.integers(len(lines)))]]
            case 3:
                cut = int(rng.integers(len(lines[at]) + 1))
                lines[at] = lines[at][:cut] + token + lines[at][cut:]
            case 4:
                lines[at] = token + lines[at].partition(":")[1] + lines[at].partition(":")[2]
            case 5:
                lines.insert(at, token)
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return damage(data, rng) if rng.random() < 0.2 else data


def use(dataset: Dataset) -> None:
    """Everything that evaluating does to data."""
    examine(dataset)
    for name in dataset.parts():
        for batch, samples in evaluation(dataset.part(name), InputContract(32, 32), 4):
            assert batch.images.dtype == np.float32
            assert np.isfinite(batch.images).all()
            for sample in samples:
                assert sample.mask is not None
                png(overlay(sample.image, sample.mask, dataset.info))


def case(kind: str, root: Path, rng: np.random.Generator, sound: Sound) -> Callable[[], None]:
    """Write one damaged dataset below ``root`` and return what is to be tried with it."""
    images, masks = root / "train/images", root / "train/masks"
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    ending, picture = sound.images[int(rng.integers(len(sound.images)))]
    mask = sound.masks[int(rng.integers(len(sound.masks)))]
    if kind == "image":
        picture = damage(picture, rng) if rng.random() < 0.7 else unexpected(rng)
    if kind == "mask":
        mask = damage(mask, rng) if rng.random() < 0.6 else unexpected(rng)
    (images / f"a.{ending}").write_bytes(picture)
    (masks / "a.png").write_bytes(mask)
    text = YAML.replace("train: train/images", "train: list.txt") if rng.random() < 0.3 else YAML
    files = f"train/images/a.{ending}"
    is_config, is_list = kind == "config", kind == "config" and text is not YAML and rng.random() < 0.7
    (root / "data.yaml").write_bytes(damage_text(text, rng) if is_config and not is_list else text.encode())
    (root / "list.txt").write_bytes(damage_text(files, rng) if is_list else files.encode())
    if rng.random() < 0.5 or kind == "config":
        return lambda: use(Described.open(root / "data.yaml"))
    return lambda: use(Folder.open(root))


def run(n: int, seed: int, keep: Path | None = None) -> dict[str, object]:
    """Try ``n`` cases; return the counts."""
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in ("image", "mask", "config")}
    slowest, tracebacks = 0.0, []
    sound = Sound(sound_images(np.random.default_rng(seed)), sound_masks(np.random.default_rng(seed)))
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        kind = ("image", "mask", "config")[number % 3]
        with tempfile.TemporaryDirectory() as folder:
            action = case(kind, Path(folder) / "data", rng, sound)
            start = time.perf_counter()
            try:
                action()
                outcome = "result"
            except BitfrontError as error:
                outcome = type(error).__name__
                if "\n" in str(error) or not error.hint:
                    outcome, tracebacks = "unclear", [*tracebacks, f"case {number}: not one line with a hint: {error}"]
            except Exception:
                outcome = "traceback"
                tracebacks.append(f"case {number} ({kind}):\n{traceback.format_exc()}")
                if keep is not None:
                    (Path(folder) / "data").rename(keep / f"case_{seed}_{number}")
            slowest = max(slowest, time.perf_counter() - start)
        outcomes[kind][outcome] += 1
    return {"cases": n, "seed": seed, "outcomes": outcomes, "slowest_s": round(slowest, 3), "tracebacks": tracebacks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/fuzz_inputs.json")
    options = parser.parse_args()
    from machine import machine  # the script's own folder, not a package

    start = time.perf_counter()
    found = run(options.n, options.seed, options.keep)
    found |= {
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
    }
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in found.items() if k != "tracebacks"}))
    print(*found["tracebacks"], sep="\n", file=sys.stderr)  # type: ignore[misc]
    return 1 if found["tracebacks"] else 0


if __name__ == "__main__":
    sys.exit(main())
