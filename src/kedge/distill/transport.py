"""From noise to a late level in no step at all: an optimal transport map to noised data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kedge.distill.stored import store, stored
from kedge.errors import InputError
from kedge.noise import Noise, Seeds
from kedge.paths.gaussian import GaussianPath
from kedge.slots import Z_SLOT

FILE = "transport"
"""What it is called next to a run."""
BLOCK = 1 << 22
"""Products of sources and points that are made at once."""
FINEST, SPACED = 0.1, 1000
"""The last rate, of the squared distance between neighbours; of how many points this is measured."""


@dataclass(frozen=True, eq=False)
class Transport:
    """The map from standard normal noise to noised data y_i that moves least in squares, as Brenier's theorem has it:

        u_h(z) = max_i (z . y_i + h_i),      T(z) = grad u_h(z) = y_i of the i that is largest

    with heights h for which each y_i gets an equal share of the noise. A walk goes on from there, at the noise scale
    `scale`: Li, Li, Wang, Lei, Luo and Gu, "DPM-OT: a new diffusion probabilistic model based on optimal transport",
    ICCV 2023. By itself T picks data, so what is new in a sample comes of the steps after it, and of `top=2`.

    Args:
        points: y, `[n, *event]`.
        heights: h, `[n]`.
        scale: the noise scale of y.
        limit: the largest angle between neighbours that are taken for one mode: see `start`.
    """

    points: Tensor
    heights: Tensor
    scale: float
    limit: float

    def cells(self, z: Tensor, top: int = 1) -> Tensor:
        """`[B, top]`: the points whose pieces of u are the highest over z."""
        y = self.points.flatten(1)
        return torch.cat([_highest(part, y, self.heights, top) for part in _split(z.flatten(1).to(y), len(y))])

    def start(self, count: int, seeds: Seeds = None, top: int = 1, tries: int = 32) -> Tensor:
        """`[count, *event]` starts at the noise scale `scale`, each from noise of its own.

        Args:
            count: how many.
            seeds: as a walk takes them.
            top: 1 is T itself. With 2, noise whose two highest pieces meet at more than `limit` is drawn anew: T jumps
                there from mode to mode. Else the start lies between the two points, at random: in few dimensions, where
                neighbours are near each other; in many, an average has less noise than its level.
            tries: how often noise is drawn anew, after which T itself is taken.
        """
        if top not in (1, 2):
            raise ValueError(f"Transport.start: the highest piece, or the two highest (top=1 or 2), not {top}")
        noise, shape = Noise.of(seeds, count, self.points.device), (count, *self.points.shape[1:])
        z = noise.normal(shape, -1, dtype=self.points.dtype)
        cells = self.cells(z, top)
        if top == 1:
            return self.points[cells[:, 0]]
        for attempt in range(1, tries):
            far = self._angle(cells) > self.limit
            if not bool(far.any()):
                break
            again = noise.normal(shape, -1 - attempt, dtype=self.points.dtype)
            cells[far] = self.cells(again[far], top)
        between = noise.uniform((count, 1), -1, dtype=self.points.dtype)
        w = torch.where(self._angle(cells)[:, None] > self.limit, 0.0, between).reshape(-1, *[1] * (z.ndim - 1))
        return (1 - w) * self.points[cells[:, 0]] + w * self.points[cells[:, 1]]

    def _angle(self, cells: Tensor) -> Tensor:
        """Between the normals (y, -1) of the two highest pieces."""
        a, b = (torch.nn.functional.pad(self.points.flatten(1)[cells[:, i]], (0, 1), value=-1.0) for i in range(2))
        return torch.nn.functional.cosine_similarity(a, b).clamp(-1, 1).acos()


def transport(
    path: GaussianPath,
    x: Tensor,
    scale: float,
    *,
    samples: int = 10_000,
    rate: float = 0.1,
    iterations: int = 1000,
    angle: float = 0.7,
    seeds: int = 0,
) -> Transport:
    """The map to data that are noised to a level. Its heights are where the convex `E u_h(z) - mean h` is least: Adam
    on `g_i = nu(cell_i) - 1 / n`, its shares nu counted on `samples` of the noise. A step that is longer than a cell is
    wide, by half the square of the distance between neighbours, empties it, so the rate falls to a part of that.

    Args:
        path: of the denoiser that goes on.
        x: data, `[n, *event]`.
        scale: the noise scale at which it does. The smaller, the nearer samples are to these data themselves.
        samples: of the noise, in an iteration.
        rate: Adam's at first, where data have unit variance.
        iterations: the heights are the mean of the last third of them.
        angle: where between the smallest and the largest angle of neighbours `limit` lies.
        seeds: of both noises.
    """
    t, n = path.time_at(scale), len(x)
    if n < 2 or not 0 < t <= path.t_max:
        raise InputError(f"transport: {n} data at the noise scale {scale} cannot be had: 2 or more, within the path")
    z = path.noise(x, Noise.of(seeds, n, x.device), 0, Z_SLOT)
    y = path.perturb(x, t, z)
    unit = float(y.std())
    heights = unit * _heights((y / unit).flatten(1).float(), _Source(y[0].numel(), seeds, samples), rate, iterations)
    found = Transport(y, heights.to(y), float(scale), math.inf)
    angles = found._angle(found.cells(_Source(y[0].numel(), seeds + 1, samples).next().to(y), 2))
    limit = float(angles.min() + angle * (angles.max() - angles.min()))
    return Transport(y, found.heights, found.scale, limit)


class _Source:
    """Standard normal noise that fills space evenly: Sobol's points, a block after the other."""

    def __init__(self, dim: int, seed: int, samples: int) -> None:
        self.samples = samples
        self._points = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)

    def next(self) -> Tensor:
        """`[samples, dim]`."""
        u = self._points.draw(self.samples, dtype=torch.float64)
        return torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))


def _heights(y: Tensor, source: _Source, rate: float, iterations: int) -> Tensor:
    """Of points of unit variance, from those of their Voronoi cells on; the mean of those of the last third."""
    h, total, last = -0.5 * y.square().sum(1), torch.zeros(len(y), dtype=torch.float64), max(iterations // 3, 1)
    h.requires_grad_()
    adam = torch.optim.Adam([h], rate)
    fall = min(FINEST * _spacing(y) ** 2 / rate, 1.0) ** (1 / iterations)
    for step in range(iterations):
        cells = torch.cat([_highest(z, y, h.detach(), 1)[:, 0] for z in _split(source.next().to(y), len(y))])
        h.grad = torch.bincount(cells, minlength=len(y)).to(y) / source.samples - 1 / len(y)
        adam.step()
        adam.param_groups[0]["lr"] *= fall
        with torch.no_grad():
            h -= h.mean()
        if step >= iterations - last:
            total += h.detach().double() / last
    return total


def _highest(z: Tensor, y: Tensor, h: Tensor, top: int) -> Tensor:
    """`[B, top]`: where `z . y_i + h_i` is the largest."""
    value = torch.addmm(h, z, y.T)
    return value.max(1, keepdim=True).indices if top == 1 else value.topk(top, 1).indices


def _split(z: Tensor, points: int) -> tuple[Tensor, ...]:
    return z.split(max(BLOCK // points, 1))


def _spacing(y: Tensor) -> float:
    """The mean distance of some points to the nearest other one."""
    some = torch.cdist(y[:SPACED], y)
    return float(some.masked_fill(some == 0, math.inf).min(1).values.mean())


def store_transport(folder: Path | str, found: Transport) -> None:
    """Next to a run."""
    said = {"scale": found.scale, "limit": found.limit}
    store(folder, FILE, {"points": found.points, "heights": found.heights}, said)


def stored_transport(folder: Path | str) -> Transport:
    """What was stored."""
    tensors, said = stored(folder, FILE, {"scale": float, "limit": float})
    return Transport(tensors["points"], tensors["heights"], **said)
