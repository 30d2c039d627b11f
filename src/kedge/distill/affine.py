"""Uniform affine codes, and the ones that lose least in squares.

torchao has observers of its own, and its `AffineQuantizedMSEObserver` searches by least squares too; but only among
ranges that lie evenly about zero, and only on the last batch that it saw. What comes out of an activation does not lie
evenly about zero, so the search is here. Rounding itself is torch's, which ONNX knows by the same name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHRINKS = 80
"""By how many shares of what occurs a range is tried: 1/80, 2/80, ... all of it."""
NEAR, FINE = 8, 2.0
"""Then its two ends apart, up to so many steps to either side, by this part of a step's size."""


@dataclass(frozen=True)
class AffineCodes:
    """Numbers as `bits`-bit codes, `q = clip(round(x / s) + z, 0, 2^bits - 1)`, `x ~ s (q - z)`; one s for all levels.

    scale: s
    zero:  z, the code of 0, which is exact: what a convolution is padded with costs nothing
    """

    scale: float
    zero: int
    bits: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"codes have 2 to 8 bits, got {self.bits}")
        if not (self.scale > 0 and 0 <= self.zero <= self.highest):
            raise ValueError(f"codes have a positive scale and a code of 0 among them, got {self.scale}, {self.zero}")

    @property
    def highest(self) -> int:
        """The last code."""
        return 2**self.bits - 1

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest number that has a code; what lies beyond is cut off there."""
        return -self.scale * self.zero, self.scale * (self.highest - self.zero)

    def __call__(self, x: Tensor) -> Tensor:
        """The numbers that the codes stand for. Within `ends` none is off by more than s / 2."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, 0, self.highest)

    @classmethod
    def between(cls, low: float, high: float, bits: int = 8) -> AffineCodes:
        """The codes whose ends are nearest to these, with 0 among them."""
        low, high = min(low, 0.0), max(high, 0.0)
        if high == low:
            return cls(1.0, 0, bits)
        scale = (high - low) / (2**bits - 1)
        return cls(scale, round(-low / scale), bits)

    def loss(self, x: Tensor) -> float:
        """The mean square of what is lost."""
        return float((self(x) - x).square().mean())


def least_squares(x: Tensor, bits: int = 8) -> AffineCodes:
    """`argmin_{s, z} E (x - s (q(x) - z))^2` over a grid of ranges: that of all that occurs, shrunk as a whole, then
    its two ends by themselves about the best of these.
    """
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    best = min((_at(x, low, high, i, i, bits) for i in range(1, SHRINKS + 1)), key=lambda found: found[0])
    steps = [i / FINE for i in range(-NEAR, NEAR + 1)]
    for _ in range(2):
        for lower, upper in ((1, 0), (0, 1)):
            *_, i, j = best
            tried = [_at(x, low, high, i + lower * step, j + upper * step, bits) for step in steps]
            best = min([best, *tried], key=lambda found: found[0])
    return best[1]


def _at(
    x: Tensor, low: float, high: float, i: float | int, j: float | int, bits: int
) -> tuple[float, AffineCodes, float | int, float | int]:
    """What is lost by the codes between the i-th share of `low` and the j-th of `high`."""
    codes = AffineCodes.between(low * max(i, 0.0) / SHRINKS, high * max(j, 0.0) / SHRINKS, bits)
    return codes.loss(x), codes, i, j


def channel_codes(weight: Tensor, bits: int = 8, axis: int = 0) -> tuple[Tensor, Tensor]:
    """Signed codes of a layer's weights and a scale for each channel along `axis`, each of them by least squares.

    They lie evenly about zero, `-(2^(bits-1) - 1)` to as much above it, as int8 kernels want them.
    """
    highest = 2 ** (bits - 1) - 1
    rows = weight.detach().movedim(axis, 0).flatten(1)
    widest = rows.abs().amax(1, keepdim=True)
    widest = torch.where(widest > 0, widest, torch.ones_like(widest))
    scale, least = widest / highest, torch.full_like(widest, float("inf"))
    for i in range(1, SHRINKS + 1):
        tried = widest * (i / SHRINKS / highest)
        lost = ((rows / tried).round().clamp(-highest, highest) * tried - rows).square().mean(1, keepdim=True)
        scale, least = torch.where(lost < least, tried, scale), torch.minimum(lost, least)
    codes = (rows / scale).round().clamp(-highest, highest).to(torch.int8)
    shape = weight.movedim(axis, 0).shape
    return codes.reshape(shape).movedim(0, axis).contiguous(), scale[:, 0]
