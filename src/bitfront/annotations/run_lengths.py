"""Run lengths of masks: COCO's counts (plain and compressed) and the brush strokes of label-studio.

COCO counts go down the columns, left to right, and begin with pixels outside. The compressed form writes every count
(from the third one its difference to the count two before) as digits of 5 bits, low digits first, a sixth bit for
"more follows", each as the character of that value + 48.

label-studio keeps a brush region as thi.ng rle-pack data: 32 bits number of words, 5 bits word size - 1, four times
4 bits of length size - 1; then blocks of 1 bit (repeated or not), 2 bits choosing a length size, the length - 1, and
one word or as many as the length. The words are the RGBA bytes of the picture, row by row; alpha is the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "compress_counts",
    "counts_of",
    "decode_brush",
    "encode_brush",
    "expand_counts",
    "mask_of",
]

LENGTH_BITS = (3, 4, 8, 16)
"""Sizes of lengths that label-studio writes."""
HEADER_BITS = 32 + 5 + 4 * 4


# --- COCO ------------------------------------------------------------------------------------------------------------
def counts_of(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the COCO counts of a mask ``(h, w)``, int64."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0] * (1 + bool(flat.size and flat[0])), changes, [flat.size]])
    return np.diff(starts).astype(np.int64)


def mask_of(counts: Sequence[int] | NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask ``(h, w)`` of COCO counts. Raises ValueError when they do not fill ``size`` exactly."""
    lengths = np.asarray(counts, np.int64)
    if lengths.size and (int(lengths.min()) < 0 or int(lengths.max()) > size[0] * size[1]):
        raise ValueError("run lengths are negative or longer than the picture")
    if int(lengths.sum()) != size[0] * size[1]:
        raise ValueError(f"run lengths cover {int(lengths.sum())} pixels, the picture has {size[0] * size[1]}")
    inside = np.arange(lengths.size) % 2 == 1
    return np.repeat(inside, lengths).reshape(size[1], size[0]).T


def compress_counts(counts: Sequence[int] | NDArray[np.int64]) -> str:
    """Return counts in COCO's compressed form."""
    values = [int(c) for c in counts]
    written = []
    for position, count in enumerate(values):
        rest = count - values[position - 2] if position > 2 else count
        more = True
        while more:
            digit = rest & 31
            rest >>= 5
            more = rest != (-1 if digit & 16 else 0)
            written.append(chr(48 + (digit | (32 if more else 0))))
    return "".join(written)


def expand_counts(text: str) -> NDArray[np.int64]:
    """Return the counts of COCO's compressed form, int64. Raises ValueError for text that is none."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise ValueError(f"'{character}' does not occur in compressed run lengths")
        value |= (digit & 31) << shift
        shift += 5
        if shift > 40:
            raise ValueError("a run length is too large")
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return np.array(counts, np.int64)


# --- label-studio ----------------------------------------------------------------------------------------------------
def decode_brush(data: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask ``(h, w)`` of label-studio's run lengths: True where alpha is not 0.

    Raises ValueError when the data is damaged or meant for a picture of another size.
    """
    try:
        packed = bytes(data)
    except (TypeError, ValueError):
        raise ValueError("brush run lengths must be a list of bytes") from None
    n_words, word_bits, length_bits, at = _header(packed)
    if word_bits != 8 or n_words != 4 * size[0] * size[1]:
        raise ValueError(f"brush run lengths hold {n_words} words, the picture needs {4 * size[0] * size[1]}")
    words = np.empty(n_words, np.uint8)
    done, end = 0, 8 * len(packed)
    while done < n_words:
        if at + 3 > end:
            raise ValueError("brush run lengths end too early")
        repeated, choice = _bits(packed, at, 1), _bits(packed, at + 1, 2)
        n = 1 + _bits(packed, at + 3, length_bits[choice])
        at += 3 + length_bits[choice]
        n_bits = 8 if repeated else 8 * n
        if done + n > n_words or at + n_bits > end:
            raise ValueError("brush run lengths are damaged")
        words[done : done + n] = _bits(packed, at, 8) if repeated else _words(packed, at, n)
        done, at = done + n, at + n_bits
    return words.reshape(*size, 4)[..., 3] > 0


def _header(packed: bytes) -> tuple[int, int, tuple[int, ...], int]:
    """Number of words, bits of a word, the four sizes of lengths, position of the first block."""
    if 8 * len(packed) < HEADER_BITS:
        raise ValueError("brush run lengths have no header")
    sizes = tuple(1 + _bits(packed, 37 + 4 * i, 4) for i in range(4))
    return _bits(packed, 0, 32), 1 + _bits(packed, 32, 5), sizes, HEADER_BITS


def _bits(packed: bytes, at: int, n: int) -> int:
    """Read up to 32 bits, high bits first."""
    first, last = at >> 3, (at + n + 7) >> 3
    return int.from_bytes(packed[first:last]) >> (8 * last - at - n) & ((1 << n) - 1)


def _words(packed: bytes, at: int, n: int) -> NDArray[np.uint8]:
    first, shift = at >> 3, at & 7
    if not shift:
        return np.frombuffer(packed, np.uint8, n, first)
    pairs = np.frombuffer(packed, np.uint8, n + 1, first).astype(np.uint16)
    words: NDArray[np.uint8] = ((pairs[:-1] << shift | pairs[1:] >> (8 - shift)) & 255).astype(np.uint8)
    return words


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Return a mask ``(h, w)`` as label-studio's run lengths (alpha 0 or 255, the colours alike)."""
    flat = mask.ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    blocks = [format(4 * flat.size, "032b"), format(7, "05b"), *(format(n - 1, "04b") for n in LENGTH_BITS)]
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        left = 4 * (end - start)
        while left:
            n = min(left, 1 << LENGTH_BITS[-1])
            choice = next(i for i, size in enumerate(LENGTH_BITS) if n <= 1 << size)
            blocks.append(f"1{choice:02b}{n - 1:0{LENGTH_BITS[choice]}b}{value}")
            left -= n
    bits = "".join(blocks)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8))
