"""What lets a small network read walls off a position: its sines and cosines, and tables that learn what is where."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kedge.cond import Cond
from kedge.nets.contract import check_input, check_sizes


class Octaves(nn.Module):
    """Appends `sin(2 pi x / period)` and `cos(2 pi x / period)` of chosen dimensions, an octave from one period to the
    next: `[..., D] -> [..., D + 2 count len(dims)]`, x itself first, then all sines, then all cosines, each in the
    order dimension by dimension, slowest period first. Nothing in it is trained.

    The periods are `longest, longest / 2, ..., longest / 2^(count - 1)` in the units of what comes in: 4, 2, 1, 1/2 and
    1/4 as it stands. Positions that are normalised to [-1, 1] or to unit variance lie within half of the first, which
    tells all of them apart, and a tenth of their range is half of the shortest: a wall of that width has both its sides
    in one wave. (A network within a `Denoiser` is given the noised state times `c_in`; with TrigFlow's F that is
    x_t / sigma_data, so the periods are in units of sigma_data there.)

    Mildenhall et al., "NeRF: representing scenes as neural radiance fields for view synthesis", ECCV 2020, eq. 4.

    dims:    which dimensions
    count:   periods of each
    longest: the first of them
    """

    w: Tensor

    def __init__(self, dims: Sequence[int] = (0, 1), count: int = 5, longest: float | int = 4.0) -> None:
        super().__init__()
        self.dims = tuple(dims)
        check_sizes("Octaves", number_of_dims=len(self.dims), count=count)
        if min(self.dims) < 0 or len(set(self.dims)) < len(self.dims):
            raise ValueError(f"Octaves: dims are indices from 0 on, each once, got {self.dims}")
        if not 0 < longest < math.inf:
            raise ValueError(f"Octaves: the longest period must be positive, got {longest}")
        self.extra = 2 * count * len(self.dims)
        """How many features are appended."""
        # In cycles a unit, which are exact powers of two where `longest` is one. Not saved: it is a formula.
        self.register_buffer("w", 2.0 ** torch.arange(count) / longest, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D + extra]`."""
        if max(self.dims) >= x.shape[-1]:
            raise ValueError(f"Octaves: dims are {self.dims}, but x has {x.shape[-1]} dimensions")
        angle = 2 * math.pi * (x[..., list(self.dims), None] * self.w.to(x.dtype)).flatten(-2)
        return torch.cat([x, angle.sin(), angle.cos()], -1)


class Atlas(nn.Module):
    """Appends learned features of a place: `[..., D] -> [..., D + extra]`, x itself first. For each of `cells` there is
    a table of cells x cells vectors over [-reach, reach]^2, read between its entries by bilinear interpolation; beyond,
    the edge goes on. What a convolution has to work out from sines again at every point, a table learns once for each
    place.

    Müller et al., "Instant neural graphics primitives with a multiresolution hash encoding", SIGGRAPH 2022, section 3,
    with tables small enough to need no hashing.

    dims:     the two dimensions of a place
    channels: of each table
    cells:    along a side, one table each
    reach:    of the tables, in the units of what comes in
    """

    def __init__(
        self,
        dims: Sequence[int] = (0, 1),
        channels: int = 32,
        cells: Sequence[int] = (24, 48),
        reach: float | int = 2.5,
    ) -> None:
        super().__init__()
        check_sizes(
            "Atlas", channels=channels, number_of_tables=len(cells), **{f"cells[{i}]": n for i, n in enumerate(cells)}
        )
        if len(dims) != 2:
            raise ValueError(f"Atlas: a place has two dimensions, got {tuple(dims)}")
        if not 0 < reach < math.inf:
            raise ValueError(f"Atlas: reach must be positive, got {reach}")
        self.dims, self.reach = tuple(dims), reach
        self.extra = channels * len(cells)
        """How many features are appended."""
        self.tables = nn.ParameterList(nn.Parameter(0.1 * torch.randn(1, channels, n, n)) for n in cells)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D + extra]`."""
        place = (x[..., list(self.dims)] / self.reach).reshape(1, -1, 1, 2)
        read = [_looked_up(table, place.to(table.dtype)).to(x).reshape(*x.shape[:-1], -1) for table in self.tables]
        return torch.cat([x, *read], -1)


def _looked_up(table: Tensor, place: Tensor) -> Tensor:
    """`[n, channels]` at n places."""
    return functional.grid_sample(table, place, padding_mode="border", align_corners=True)[0, :, :, 0].mT


class Fourier(nn.Module):
    """A network that is given `Octaves` of its input as well, and what an `Atlas` knows of it if there is one. It is
    called as the network is, and returns the same.

    The network reads `dim` and all that is appended, and writes `dim`. `Fourier.around` builds both:

        Fourier.around(UNet1D, 4, width=32)  # UNet1D(4 + 20, out=4, width=32), hearing (x, y) in five octaves

    net:    of `kedge.nets`, built with `out`
    atlas:  learned features of places
    others: as of `Octaves`
    """

    def __init__(
        self,
        net: nn.Module,
        dims: Sequence[int] = (0, 1),
        count: int = 5,
        longest: float | int = 4.0,
        atlas: Atlas | None = None,
    ) -> None:
        super().__init__()
        self.octaves = Octaves(dims, count, longest)
        self.atlas = atlas
        self.net = net
        extra = self.octaves.extra + (atlas.extra if atlas else 0)
        reads, self.dim = (getattr(net, name, None) for name in ("dim", "out"))
        if not isinstance(self.dim, int) or reads != self.dim + extra:
            raise ValueError(
                f"Fourier: {type(net).__name__} must read {extra} dimensions more than it writes, but "
                f"dim={reads} and out={self.dim}; Fourier.around builds the two so that they fit"
            )
        if max(self.octaves.dims) >= self.dim:
            raise ValueError(f"Fourier: dims are {self.octaves.dims}, but x has {self.dim} dimensions")
        self.out = self.dim

    @classmethod
    def around(
        cls,
        kind: type[nn.Module],
        dim: int,
        *sizes: object,
        dims: Sequence[int] = (0, 1),
        count: int = 5,
        longest: float | int = 4.0,
        atlas: Atlas | None = None,
        **options: object,
    ) -> Fourier:
        """A network of this kind with features around it: `kind(dim + extra, *sizes, out=dim, **options)`."""
        extra = Octaves(dims, count, longest).extra + (atlas.extra if atlas else 0)
        return cls(kind(dim + extra, *sizes, out=dim, **options), dims, count, longest, atlas)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """Of x's shape."""
        check_input("Fourier", x, t, (*x.shape[1:-1], self.dim))
        lifted = self.octaves(x)
        return self.net(lifted if self.atlas is None else self.atlas(lifted), t, cond)
