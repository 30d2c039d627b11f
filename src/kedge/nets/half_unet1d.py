"""The descending half of a U-Net over the tokens of a trajectory: numbers of the whole of it, such as its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from kedge.cond import Cond
from kedge.nets.activations import Mish, mish
from kedge.nets.contract import check_input, check_sizes
from kedge.nets.embeddings import Conditioning
from kedge.nets.unet1d import GROUPS, Residual


class HalfUNet1D(nn.Module):
    """Diffuser's `J_phi(tau^i, i)` (Janner et al., "Planning with diffusion for flexible behavior synthesis", 2022,
    section 3.2 and appendix C; `ValueFunction` of jannerm/diffuser), parameter for parameter at its horizon of 32.

    `TemporalUnet`'s way down (two residual blocks and a strided convolution at each resolution, the coarsest too), then
    twice a residual block to half the channels and a strided convolution, then two linear layers on what is left and
    the embedding. The horizon is fixed by the first of these.

    Called as `net(x, t, cond=None)`, and returns `[B, out]`:

    x:    `[B, horizon, dim]`
    t:    c_noise = 1/4 ln(noise scale), `[B]`, or `[B, T]`: a token of a coarser resolution hears the mean of the
          (activated) embeddings of the 2, 4, 8, ... tokens that it stands for, and the last layers hear the mean of all
    cond: None (all fields null), or a `Cond` with the fields given here

    horizon:  T
    dim:      D, of a transition
    width:    channels of the finest resolution over `mults[0]`, and width of the embedding
    mults:    channels of each resolution over `width`
    features: of t: "sinusoidal" or "fourier", `width` of them
    cond:     width of each field of the condition
    out:      how many numbers
    """

    def __init__(
        self,
        horizon: int,
        dim: int,
        width: int = 32,
        mults: Sequence[int] = (1, 2, 4, 8),
        *,
        features: str = "sinusoidal",
        cond: Mapping[str, int] | None = None,
        out: int = 1,
    ) -> None:
        super().__init__()
        check_sizes("HalfUNet1D", horizon=horizon, dim=dim, width=width, number_of_mults=len(mults), out=out)
        check_sizes("HalfUNet1D", **{f"mults[{i}]": m for i, m in enumerate(mults)})
        last = width * mults[-1]
        if width % GROUPS or last % (8 * GROUPS):
            # Halved twice, they still make groups of two: the norm of a group of one, at one token, is of one number.
            raise ValueError(
                f"HalfUNet1D: width must be a multiple of {GROUPS} and the channels of the last resolution of "
                f"{8 * GROUPS} (they are halved twice, and norms have {GROUPS} groups), got {width} and {last}"
            )
        self.horizon, self.dim, self.out = horizon, dim, out
        channels = [dim, *(width * m for m in mults)]
        self.hears = Conditioning("HalfUNet1D", features, width, 4 * width, width, cond)
        self.down = nn.ModuleList(_Stage([i, o, o], width) for i, o in pairwise(channels))
        self.narrow = nn.ModuleList(_Stage([i, i // 2], width) for i in (last, last // 2))
        left = horizon
        for _ in (*self.down, *self.narrow):
            left = (left + 1) // 2
        flat = last // 4 * left
        self.leave = nn.Sequential(nn.Linear(flat + width, flat // 2), Mish(), nn.Linear(flat // 2, out))

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """`[B, out]`."""
        check_input("HalfUNet1D", x, t, (self.horizon, self.dim))
        embedding = self.hears(t, cond)
        whole = embedding if t.ndim == 1 else embedding.mean(1)
        heard = mish(embedding)
        heard = heard[..., None] if t.ndim == 1 else heard.transpose(1, 2)  # [B, E, 1 or T]
        h = x.transpose(1, 2)
        for stage in (*self.down, *self.narrow):
            h = stage(h, heard.transpose(1, 2))
            # the last of an odd number of tokens is halved alone, as the strided convolution does
            heard = functional.avg_pool1d(heard, 2, ceil_mode=True) if heard.shape[-1] > 1 else heard
        return self.leave(torch.cat([h.flatten(1), whole], 1))


class _Stage(nn.Module):
    """Residual blocks from channels to channels, and a convolution that halves the tokens."""

    def __init__(self, channels: Sequence[int], embed: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(i, o, embed) for i, o in pairwise(channels))
        self.coarsen = nn.Conv1d(channels[-1], channels[-1], 3, stride=2, padding=1)

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, heard)
        return self.coarsen(x)
