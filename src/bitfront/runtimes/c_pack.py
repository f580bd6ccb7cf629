"""Numbers of few bits as bytes: least significant bit first, every row from a byte on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "signed_bits", "unpack"]


def signed_bits(codes: NDArray[Any]) -> int:
    """Return the fewest bits, at least 1, in which two's complement holds all codes."""
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    return max(1 + high.bit_length() if high else 1, 1 + (~low).bit_length() if low else 1)


def pack(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return the bytes ``(n,)`` of rows of codes ``(rows, k)``, of 1 to 32 bits each."""
    if bits == 8:
        return codes.astype(np.int8).view(np.uint8).ravel()
    shifts = np.arange(bits, dtype=np.int64)
    spread = (codes.astype(np.int64)[:, :, None] >> shifts) & 1
    packed: NDArray[np.uint8] = np.packbits(spread.astype(np.uint8).reshape(len(codes), -1), axis=1, bitorder="little")
    return packed.ravel()


def unpack(packed: NDArray[np.uint8], bits: int, rows: int, k: int) -> NDArray[np.int64]:
    """Return the codes ``(rows, k)`` that :func:`pack` took."""
    flat = np.unpackbits(packed.reshape(rows, -1), axis=1, bitorder="little")[:, : k * bits].reshape(rows, k, bits)
    codes: NDArray[np.int64] = (flat.astype(np.int64) << np.arange(bits)).sum(-1)
    return np.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)
