"""A network of several widths, asked at one that follows from the level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kedge.denoise import Denoiser, Estimate, Pinning
from kedge.disk import read_object
from kedge.elementary import Level
from kedge.errors import InputError
from kedge.nets import Slimmable
from kedge.paths.gaussian import GaussianPath
from kedge.train.checkpoint import save_json
from kedge.tree import Tree, lead, tree_map

NEAR = 1 + 1e-4
"""Within this factor a noise scale is a step's own: it went through a path's time and back."""


@dataclass(frozen=True)
class Widths:
    """A share of the width for each step of a walk (Yang et al., "Denoising diffusion step-aware models", ICLR 2024),
    said by noise scales, so that it serves other grids, other solvers and other paths: a level has the share of the
    step in which it lies, one above them all that of the first.

    scales: at which steps begin, noisiest first
    shares: of a `kedge.nets.Slimmable`, one a step
    """

    scales: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in pairwise(self.scales)) and self.scales and 0 < self.scales[-1] < math.inf
        if not falls or len(self.shares) != len(self.scales):
            raise ValueError("Widths: noise scales fall, above 0, and each has a share")

    def place(self, scale: Any) -> Any:
        """Of the step in which a noise scale lies, or each of a tensor of them."""
        if isinstance(scale, Tensor):
            begun = scale[..., None] <= torch.tensor(self.scales, dtype=scale.dtype, device=scale.device) * NEAR
            return (begun.sum(-1) - 1).clamp(min=0)
        return max(sum(scale <= own * NEAR for own in self.scales) - 1, 0)

    def on(self, denoiser: Denoiser) -> ByWidth:
        """A denoiser that keeps to it, with the weights as they are now."""
        return ByWidth.of(denoiser, self.shares).by(self)

    def save(self, path: Path) -> None:
        """As JSON."""
        save_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Widths:
        """What was saved; one line where it is not there or cannot be used."""
        found = read_object(path, {"scales": [float], "shares": [float]})
        try:
            return cls(tuple(map(float, found["scales"])), tuple(map(float, found["shares"])))
        except (KeyError, ValueError) as error:
            raise InputError(f"{path} cannot be used ({error})") from None


class ByWidth(nn.Module):
    """`D(x_t, t) = D_s(x_t, t)` with the share s of the width that `widths` has for the level. What it asks are plain
    networks of these widths, cut out of a slimmable one: a walk pays for nothing else, and a guide goes on top.

    Args:
        narrow: a denoiser for each share.
        widths: which share at which noise scale.
    """

    def __init__(self, narrow: Mapping[float, Denoiser], widths: Widths) -> None:
        super().__init__()
        if missing := sorted({*widths.shares, 1.0} - set(narrow)):
            raise ValueError(f"ByWidth: no denoiser of share {missing[0]} of the width")
        self.narrow, self.widths = dict(narrow), widths
        self.denoisers = nn.ModuleList(self.narrow[share] for share in sorted(self.narrow))

    @classmethod
    def of(cls, denoiser: Any, shares: tuple[float, ...] = ()) -> ByWidth:
        """Of a slimmable denoiser, at its whole width throughout; cut are these shares, or all that it has."""
        net = getattr(denoiser, "net", None)
        if not isinstance(denoiser, Denoiser) or not isinstance(net, Slimmable):
            raise TypeError(f"ByWidth: a Denoiser of a kedge.nets.Slimmable, not {type(denoiser).__name__}")
        cut = {share: denoiser.with_net(net.cut(share)) for share in {*(shares or net.shares), 1.0}}
        return cls({share: one.train(denoiser.training) for share, one in cut.items()}, Widths((1.0,), (1.0,)))

    def by(self, widths: Widths) -> ByWidth:
        """The same networks by other widths."""
        return ByWidth(self.narrow, widths)

    @property
    def path(self) -> GaussianPath:
        """Of all widths."""
        return self.narrow[1.0].path

    @property
    def pinned(self) -> Pinning:
        """As all widths were trained."""
        return self.narrow[1.0].pinned

    def forward(self, x_t: Tree, t: Level, cond: Any = None) -> Any:
        """The expected clean x."""
        self.path.check(t)
        return self.estimate(x_t, t, cond).x

    def estimate(self, x_t: Tree, t: Level, cond: Any = None) -> Estimate:
        """That of the width at this level; entry by entry where levels differ."""
        place, shares = self.widths.place(self.path.noise_scale(t)), self.widths.shares
        if not isinstance(place, Tensor):
            return self._at(shares[place], x_t, t, cond)
        own = torch.tensor(shares, dtype=torch.float64, device=place.device)[place]
        first, *others = own.unique().tolist()
        found = self._at(first, x_t, t, cond)
        for share in others:
            turn, other = own == share, self._at(share, x_t, t, cond)
            x = tree_map(lambda a, b, turn=turn: torch.where(lead(turn, a) > 0, a, b), other.x, found.x)
            found = Estimate(x, found.extra)
        return found

    def prepare(self, cond: Any) -> Any:
        """As it came: each width encodes it in its own way."""
        return cond

    def _at(self, share: float, x_t: Tree, t: Level, cond: Any) -> Estimate:
        one = self.narrow[share]
        return one.estimate(x_t, t, one.prepare(cond))
