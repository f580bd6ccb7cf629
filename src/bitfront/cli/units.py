"""Numbers with units, as people write them on a command line or in bitfront.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bitfront.errors import UsageError

__all__ = ["fraction", "milliseconds", "resolution", "seconds", "setting", "settings", "size_bytes"]

TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
SIZES = {"": 1, "b": 1, "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3}
SIZES |= {"kib": 1024, "mib": 1024**2, "gib": 1024**3}
NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?"
MAX_PIXELS_A_SIDE = 16384


def seconds(text: str | float, name: str) -> float:
    """Return the seconds of ``1h``, ``10m``, ``90s``, ``1h30m`` or ``90``. Raises UsageError naming the option."""
    plain = str(text).strip().lower()
    if re.fullmatch(NUMBER, plain):
        return _positive(float(plain), text, name)
    parts = re.findall(rf"({NUMBER})\s*([a-z]+)\s*", plain)
    whole = "".join(number + unit for number, unit in parts)
    if not parts or whole != plain.replace(" ", "") or any(unit not in TIMES for _, unit in parts):
        raise UsageError(f"{name}: '{text}' is not a time", hint="write it as 90s, 10m, 1h or 1h30m")
    return _positive(sum(float(number) * TIMES[unit] for number, unit in parts), text, name)


def milliseconds(text: str | float, name: str) -> float:
    """Return the milliseconds of ``33ms``, ``0.033s``, ``800us`` or ``33``. Raises UsageError naming the option."""
    plain = str(text).strip().lower()
    if re.fullmatch(NUMBER, plain):
        return _positive(float(plain), text, name)
    try:
        return round(seconds(text, name) * 1000, 9)
    except UsageError:
        raise UsageError(f"{name}: '{text}' is not a time", hint="write it as 33ms or 0.033s") from None


def size_bytes(text: str | float, name: str) -> int:
    """Return the bytes of ``400kB``, ``0.4MB``, ``256KiB`` or ``400000``. Raises UsageError naming the option."""
    found = re.fullmatch(rf"({NUMBER})\s*([a-z]*)", str(text).strip().lower())
    if found is None or found[2] not in SIZES:
        raise UsageError(f"{name}: '{text}' is not a size", hint="write it as 400kB, 0.4MB, 256KiB or bytes")
    return round(_positive(float(found[1]) * SIZES[found[2]], text, name))


def fraction(text: str | float, name: str) -> float:
    """Return the fraction, 0 to 1, of ``0.95`` or ``95%``. Raises UsageError naming the option."""
    plain = str(text).strip()
    found = re.fullmatch(rf"({NUMBER})\s*(%?)", plain.lower())
    if found is None:
        raise UsageError(f"{name}: '{text}' is not a fraction", hint="write it as 0.95 or 95%")
    value = float(found[1]) / (100 if found[2] else 1)
    if value > 1:
        guess = f"did you mean {plain}%?" if not found[2] and value <= 100 else "write it as 0.95 or 95%"
        raise UsageError(f"{name}: {text} is more than 1", hint=guess)
    return value


def resolution(text: object, name: str = "resolution") -> tuple[int, int]:
    """Return ``(height, width)`` of ``256`` or ``256x320`` (height first). Raises UsageError."""
    items = list(text) if isinstance(text, (list, tuple)) else re.split(r"[x×]", str(text).strip().lower())
    found = [int(t) for t in map(str, items) if re.fullmatch(r"[0-9]{1,6}", t.strip())]
    if len(found) != len(items) or len(found) not in (1, 2) or not all(0 < n <= MAX_PIXELS_A_SIDE for n in found):
        raise UsageError(f"{name}: '{text}' is not a resolution", hint="write it as 256 or 240x320 (height x width)")
    return found[0], found[-1]


def settings(texts: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """Return the knobs of ``["width=0.25", "resolution=256x320"]``; a comma makes a tuple. Raises UsageError."""
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise UsageError(f"{option}: '{text}' is not KNOB=VALUE", hint="for example --set width=0.25")
        if key in values:
            raise UsageError(f"{option}: '{key}' is given twice", hint="several values: --set width=0.25,0.5")
        values[key] = setting(key, value)
    return values


def setting(key: str, value: object) -> Any:
    """Return the value of one knob: number, truth, text, ``(height, width)``, or a tuple of them."""
    if isinstance(value, (list, tuple)):
        return tuple(setting(key, v) for v in value)
    if not isinstance(value, str):
        return resolution(value) if key == "resolution" else value
    if "," in value:
        return tuple(setting(key, v) for v in value.split(",") if v.strip())
    return resolution(value) if key == "resolution" else _scalar(value.strip())


def _scalar(text: str) -> int | float | bool | str | None:
    words: Mapping[str, bool | None] = {"true": True, "yes": True, "false": False, "no": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(rf"[+-]?{NUMBER}", text.lower()):
        return float(text)
    return text


def _positive(value: float, text: object, name: str) -> float:
    if not 0 < value < float("inf"):
        raise UsageError(f"{name}: {text} is not above 0", hint="leave the option out for no limit")
    return value
