"""Noise that belongs to a sample, not to a batch.

Numbers come from (key of the sample, step, slot) by a counter: hash the three to 64 bits, add a Weyl sequence, mix
(SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), then Box-Muller.
Nothing else is held: a sample keeps its noise in any batch, after a resampling, in a recomputation, after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import TypeAlias, cast

import torch
from jaxtyping import Int64
from torch import Tensor

from kedge.tree import Tree

AHEAD_NUMBERS, AHEAD_STEPS = 512, 32
"""Draws of at most so many numbers are made for so many steps at once."""
AHEAD_KEPT = 8
"""... and kept for so many streams: the fields of a state, and what hooks draw beside them."""


Seeds: TypeAlias = "int | Sequence[int] | Tensor | Noise | None"
"""One number for a call, one for each sample, or None: a number from torch's generator. A noise is taken as it is."""


def _signed(value: int) -> int:
    """An unsigned 64-bit constant in the two's complement that torch's int64 arithmetic wraps in."""
    return value - (1 << 64) if value >= 1 << 63 else value


WEYL = _signed(0x9E3779B97F4A7C15)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)

SLOTS = 64
"""Streams a field may use within one step. Slot 0 is the step's own noise; the hooks and losses name theirs."""


def _wrapped(count: int, constant: int) -> int:
    """`count * constant` modulo 2^64, signed."""
    return _signed((count * constant) % (1 << 64))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own carries the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64 bits in which every bit depends on every other."""
    z = (z ^ _shift(z, 30)) * MIX_1
    z = (z ^ _shift(z, 27)) * MIX_2
    return z ^ _shift(z, 31)


def _multiples(first: int, count: int, device: torch.device | str | None) -> Tensor:
    """`(first + i) * WEYL` modulo 2^64, i = 0, 1, ...: by sums, for compilers know products of a range and a number so
    well that they work them out themselves, in numbers that do not wrap.
    """
    weyl = torch.full((count,), WEYL, device=device)
    weyl[:1] = _wrapped(first, WEYL)
    return weyl.cumsum(0)


def _keys(seed: int, batch: int, device: torch.device | str | None) -> Tensor:
    """Of the seed and each sample's index in the call."""
    weyl = _multiples(0, batch, device)
    return mix(mix(torch.full_like(weyl, _wrapped(seed, 1)) + WEYL) + weyl)


@dataclass(frozen=True, eq=False)
class Noise:
    """The sources of noise of a batch: one 64-bit key a sample."""

    _key: Int64[Tensor, " b"] | Callable[[], Tensor]
    """The keys, or what makes them when they are first asked for: a deterministic walk never does."""
    _ahead: dict[tuple[int, int, int, torch.dtype], Tensor] = field(default_factory=dict, repr=False)
    """Small draws for some steps ahead: at batch 1 they cost as much as one."""
    _among: tuple[Tensor, int] | None = field(default=None, repr=False)
    """The keys of the whole batch that these samples are a part of, and the place of the first of them."""

    @property
    def everyone(self) -> tuple[Noise, slice]:
        """The noise of the whole batch, and where these samples stand in it: for what couples samples. They are all of
        it but where several processes share a batch.
        """
        if self._among is None:
            return self, slice(None)
        keys, first = self._among
        return Noise(keys), slice(first, first + len(self.key))

    def part(self, first: int, count: int) -> Noise:
        """`count` of these samples, which remember the others."""
        return Noise(self.key[first : first + count], _among=(self.key, first))

    @classmethod
    def of(cls, seeds: Seeds, batch: int, device: torch.device | str | None = None) -> Noise:
        """From one seed for the call (each sample's key is then made of the seed and its index in the call), or from a
        seed for each sample (which then has the same noise in any batch). None takes one from torch's generator.
        """
        if seeds is None:
            seeds = int(torch.randint(2**62, ()))
        if isinstance(seeds, Noise):
            return seeds
        if isinstance(seeds, Integral):
            return cls(partial(_keys, int(seeds), batch, device))
        numbers = torch.as_tensor(seeds, device=device)
        if numbers.shape != (batch,) or numbers.is_floating_point():
            found = f"{numbers.dtype} of {tuple(numbers.shape)}"
            raise ValueError(f"seeds: expected a whole number for each of {batch} samples, got {found}")
        return cls(mix(mix(numbers.long() + WEYL)))

    @property
    def key(self) -> Int64[Tensor, " b"]:
        """`[B]` keys."""
        if not isinstance(self._key, Tensor):
            object.__setattr__(self, "_key", self._key())
        return cast(Tensor, self._key)

    def uniform(self, shape: Sequence[int], step: int, slot: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Uniform numbers in the open interval (0, 1), of `shape`, whose first axis is the batch."""
        bits = self._bits(math.prod(shape[1:]), step, 1, slot)[0]
        u = _open_unit(bits, _wide(dtype)).reshape(tuple(shape)).to(dtype)
        # half precision would round the largest up to 1
        return u if dtype == _wide(dtype) else u.clamp(max=1 - torch.finfo(dtype).eps / 2)

    def normal(self, shape: Sequence[int], step: int, slot: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Standard normal numbers of `shape`, whose first axis is the batch."""
        count = math.prod(shape[1:])
        if count * len(self.key) > AHEAD_NUMBERS:
            return self._normals(count, step, 1, slot, dtype)[0].reshape(tuple(shape))
        block, offset = divmod(step, AHEAD_STEPS)
        drawn = count, block, slot, dtype
        if drawn not in self._ahead:
            if len(self._ahead) >= AHEAD_KEPT:
                self._ahead.clear()
            self._ahead[drawn] = self._normals(count, block * AHEAD_STEPS, AHEAD_STEPS, slot, dtype)
        return self._ahead[drawn][offset].reshape(tuple(shape)).clone()

    def seeds(self, step: int, slot: int = 0) -> Tensor:
        """`[B]` whole numbers, of which other noise can be made."""
        return (self.uniform((len(self.key),), step, slot) * 2**53).long()

    def _bits(self, count: int, first: int, steps: int, slot: int) -> Tensor:
        """`[steps, B, count]` of 64 random bits."""
        device = self.key.device
        stream = mix(mix(self.key + _multiples(first, steps, device)[:, None]) + _wrapped(slot + 1, MIX_2))
        return mix(stream[..., None] + _multiples(1, count, device))

    def _normals(self, count: int, first: int, steps: int, slot: int, dtype: torch.dtype) -> Tensor:
        """`[steps, B, count]`, by Box and Muller: `sqrt(-2 log u) (cos, sin)(2 pi v)`."""
        half = (count + 1) // 2
        u = _open_unit(self._bits(2 * half, first, steps, slot), _wide(dtype))
        radius = (-2 * u[..., :half].log()).sqrt()
        angle = u[..., half:] * (2 * math.pi)
        z = torch.cat([radius * angle.cos(), radius * angle.sin()], -1)
        return z[..., :count].to(dtype)

    def take(self, index: Tensor, fork: bool = True) -> Noise:
        """The sources at `index`. With `fork`, copies of one row get keys of their own; a row that is taken once keeps
        its key. No copy keeps the old one: it would fork into the same keys again at the next branch.
        """
        key = self.key.index_select(0, index)
        if not fork:
            return Noise(key)
        copy = _copy_number(index)
        return Noise(torch.where(copy == 0, key, mix(key + copy * MIX_1)))


class Heard(Noise):
    """Noise that remembers what normals it was asked for: `(step, slot)` each, in order. What a walk asks for depends
    on its solver, grid and hooks alone, so one walk tells it for all.
    """

    @property
    def asked(self) -> list[tuple[int, int]]:
        """What it was asked for so far."""
        return self.__dict__.setdefault("_asked", [])

    def normal(self, shape: Sequence[int], step: int, slot: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """See `Noise.normal`."""
        self.asked.append((step, slot))
        return super().normal(shape, step, slot, dtype)


class Given(Noise):
    """Normals that were drawn beforehand, `[B, n, ...]`, handed out in the order in which they are asked for: how noise
    becomes an input of a graph. Inside of one it could not be drawn: compilers fold the products of the counter without
    wrapping them at 64 bits.
    """

    @classmethod
    def drawn(cls, normals: Tensor) -> Given:
        """These."""
        made = cls(_no_key)
        made.__dict__["_left"] = list(normals.unbind(1))
        return made

    def normal(self, shape: Sequence[int], step: int, slot: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """The next."""
        left = self.__dict__["_left"]
        if not left:
            raise ValueError("more noise was asked for than was given: is this the walk that it was drawn for?")
        z = left.pop(0)
        if tuple(z.shape[1:]) != tuple(shape[1:]):
            raise ValueError(f"noise of {list(shape[1:])} was asked for, and {list(z.shape[1:])} was given")
        return z.to(dtype)


def _no_key() -> Tensor:
    raise ValueError("noise that was given has normals alone: this walk asks for uniform numbers, or branches")


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: half precision would leave 8 to 11 bits of randomness."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _open_unit(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The top bits as a number in (0, 1), never 0 or 1: 52 of them in float64, 23 in float32."""
    digits = 52 if dtype == torch.float64 else 23
    return (_shift(bits, 64 - digits).to(dtype) + 0.5) * 2.0**-digits


def _copy_number(index: Tensor) -> Tensor:
    """Which copy of its entry each one is, from 1 on; 0 where an entry stands in `index` once."""
    value, order = index.sort(stable=True)
    first, end = torch.searchsorted(value, value), torch.searchsorted(value, value, right=True)
    number = torch.arange(1, len(index) + 1, device=index.device) - first
    return torch.empty_like(number).scatter_(0, order, torch.where(end - first > 1, number, 0))


def normal_like(x: Tree, noise: Noise, step: int, slot: int = 0) -> Tree:
    """Standard normals in the shape, dtype and device of `x`; each field of a dictionary has a stream of its own."""
    if isinstance(x, Tensor):
        return noise.normal(x.shape, step, slot, x.dtype)
    return {
        name: noise.normal(leaf.shape, step, slot + i * SLOTS, leaf.dtype) for i, (name, leaf) in enumerate(x.items())
    }
