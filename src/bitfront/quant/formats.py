"""Number formats: value <-> code.

A code is a stored integer; a value is the real number it stands for. All formats round half to even, as ONNX
QuantizeLinear, ``numpy.rint`` and ``torch.round`` do, and saturate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Affine", "Binary", "Float16", "Float32", "Format", "Qmn", "integer"]


@dataclass(frozen=True, slots=True)
class Affine:
    """``value = (code - zero_point) * scale``, per tensor or per channel along ``axis``.

    Source: ONNX QuantizeLinear; thesis 002, 2.3: r = S (q - z).
    """

    bits: int
    scale: tuple[float, ...]
    """One, or one per channel; each a float32 value."""
    zero_point: tuple[int, ...] = (0,)
    signed: bool = True
    axis: int | None = None
    narrow: bool = False
    """Leave out the most negative code (symmetric range)."""

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) + self.narrow if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def parameters(self, n_dims: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scale (float32) and zero point (int64), shaped to broadcast against a tensor of ``n_dims`` axes."""
        scale, zero = np.asarray(self.scale, np.float32), np.asarray(self.zero_point, np.int64)
        if self.axis is None:
            return scale[0], zero[0]
        shape = [1] * n_dims
        shape[self.axis] = -1
        return scale.reshape(shape), np.broadcast_to(zero, scale.shape).reshape(shape)

    def encode(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the codes of float values (any shape): clip(rint(value / scale) + zero_point), in float32 as ONNX."""
        scale, zero = self.parameters(np.ndim(values))
        steps = np.rint(np.asarray(values, np.float32) / scale)
        low, high = self.low - zero, self.high - zero  # clip before the cast: a float32 may exceed int64
        codes: NDArray[np.int64] = np.clip(steps, low, high).astype(np.int64) + zero
        return codes

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the float32 values of codes."""
        scale, zero = self.parameters(np.ndim(codes))
        values: NDArray[np.float32] = (np.asarray(codes, np.int64) - zero).astype(np.float32) * scale
        return values


@dataclass(frozen=True, slots=True)
class Binary(Affine):
    """One bit: ``value = code * scale`` with the codes -1 and 1, per tensor or per channel; 0 becomes 1.

    Source: Courbariaux et al. 2015, "BinaryConnect", equation 1; with a scale of each output channel Rastegari et al.
    2016, "XNOR-Net", section 3.1.
    """

    @classmethod
    def of(cls, scale: tuple[float, ...] = (1.0,), axis: int | None = None) -> Binary:
        """Return the format with one scale, or one for each channel along ``axis``."""
        return cls(1, scale, (0,), True, axis, True)

    @property
    def low(self) -> int:
        """Smallest code."""
        return -1

    @property
    def high(self) -> int:
        """Largest code."""
        return 1

    def encode(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the signs of float values (any shape)."""
        codes: NDArray[np.int64] = np.where(np.asarray(values) >= 0, 1, -1).astype(np.int64)
        return codes


@dataclass(frozen=True, slots=True)
class Qmn:
    """Fixed point: ``value = code * 2**-frac_bits``, two's complement when signed, no zero point.

    ``bits`` counts all bits with the sign; ``int_bits`` are those left of the point without the sign.
    Source: thesis 000, 4.2, with the range of QKeras' ``quantized_bits``.
    """

    bits: int
    frac_bits: int
    signed: bool = True

    @property
    def int_bits(self) -> int:
        """Bits left of the point, without the sign; may be negative."""
        return self.bits - self.frac_bits - self.signed

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def step(self) -> float:
        """Distance between neighbouring values."""
        return 2.0**-self.frac_bits

    def affine(self) -> Affine:
        """Return the same format as an affine one."""
        return Affine(self.bits, (self.step,), (0,), self.signed)

    def encode(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the codes of float values (any shape)."""
        steps = np.rint(np.asarray(values, np.float64) * 2.0**self.frac_bits)
        codes: NDArray[np.int64] = np.clip(steps, self.low, self.high).astype(np.int64)
        return codes

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the float32 values of codes."""
        values: NDArray[np.float32] = (np.asarray(codes, np.float64) * self.step).astype(np.float32)
        return values


@dataclass(frozen=True, slots=True)
class Float16:
    """IEEE half precision, saturating."""

    bits: int = 16

    def encode(self, values: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the nearest half-precision values."""
        limit = np.finfo(np.float16).max
        codes: NDArray[np.float16] = np.clip(values, -limit, limit).astype(np.float16)
        return codes

    def decode(self, codes: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return the same numbers as float32."""
        return codes.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Float32:
    """IEEE single precision: no quantization."""

    bits: int = 32

    def encode(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return float32 values."""
        return np.asarray(values, np.float32)

    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the same values."""
        return codes


Format = Affine | Qmn | Float16 | Float32


def integer(form: Format | None) -> Affine | None:
    """Return the affine view of an integer format, ``None`` for floats and missing formats."""
    if isinstance(form, Qmn):
        return form.affine()
    return form if isinstance(form, Affine) else None
