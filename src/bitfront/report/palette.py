"""One colour for every number of bits, the same in all pictures: few bits are bright, many are deep."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bitfront.report.searches import FLOAT_BITS

__all__ = ["COLOURS", "DARK", "FLOAT_COLOUR", "ink", "style"]

INK, PAPER = "#15181e", "#ffffff"
FLOAT_COLOUR = "#9aa1ad"


def _ramp(anchors: Mapping[int, str]) -> dict[int, str]:
    """Colours for 2 to 16 bits, interpolated between anchors over the logarithm of the bits."""
    known = sorted(anchors)
    found = {}
    for bits in range(known[0], known[-1] + 1):
        low, high = max(b for b in known if b <= bits), min(b for b in known if b >= bits)
        part = (math.log2(bits) - math.log2(low)) / (math.log2(high) - math.log2(low)) if high > low else 0.0
        ends = zip(_rgb(anchors[low]), _rgb(anchors[high]), strict=True)
        found[bits] = "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in ends)
    return found | {FLOAT_BITS: FLOAT_COLOUR}


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


COLOURS = _ramp({2: "#fde725", 3: "#9bd93c", 4: "#4dc36b", 6: "#1f9e89", 8: "#26788f", 12: "#3b4d8c", 16: "#46186a"})
"""On white."""
DARK = _ramp({2: "#fde725", 3: "#a9dc4b", 4: "#5fca74", 6: "#35b3a2", 8: "#3a94c2", 12: "#5a74d0", 16: "#8b5fd6"})
"""On a dark page."""


def ink(colour: str) -> str:
    """Return black or white, whichever contrasts more with a colour. Source: WCAG 2.2, relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _rgb(colour))]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return INK if (luminance + 0.05) / 0.058 > 1.05 / (luminance + 0.05) else PAPER


def style() -> str:
    """Return the rules of the page: ``b4`` fills with the colour of 4 bits, ``on4`` is the ink for text on it."""
    dark = "\n".join(f"  {line}" for line in _rules(DARK))
    light = "\n".join(_rules(COLOURS))
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _rules(colours: Mapping[int, str]) -> list[str]:
    return [
        f".b{bits} {{ fill: {colour}; background: {colour}; }} .chart text.on{bits} {{ fill: {ink(colour)}; }}"
        for bits, colour in colours.items()
    ]
