"""A convolutional U-Net over the tokens of a trajectory: locally consistent at every resolution, any horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.nets.activations import Mish, mish
from kedge.nets.contract import check_input, check_sizes
from kedge.nets.embeddings import Conditioning

KERNEL = 5
GROUPS = 8


class UNet1D(nn.Module):
    """Diffuser's temporal U-Net (Janner et al., "Planning with diffusion for flexible behavior synthesis", 2022,
    appendix C; `TemporalUnet` of jannerm/diffuser), parameter for parameter.

    Each resolution has two residual blocks of two (Conv of kernel 5, GroupNorm of 8, Mish), the embedding added between
    them; resolutions are joined by a strided convolution down and a transposed one up, with the skips concatenated.
    Nothing starts at zero, as in the source.

    Called as `net(x, t, cond=None)`, and returns a tensor of x's shape (but for `out`):

    x:    `[B, T, dim]`, any T that is a multiple of `2 ** (len(mults) - 1)`
    t:    c_noise = 1/4 ln(noise scale), `[B]`, or `[B, T]`: one level a token. A token of a coarser resolution hears
          the mean of the (activated) embeddings of the 2, 4, 8, ... tokens that it stands for
    cond: None (all fields null), or a `Cond` with the fields given here

    dim:       D, of a transition
    width:     channels of the finest resolution over `mults[0]`, and width of the embedding; a multiple of 8
    mults:     channels of each resolution over `width`
    attention: linear attention (Shen et al., "Efficient attention", 2021) after each pair of blocks
    features:  of t: "sinusoidal" or "fourier", `width` of them
    cond:      width of each field of the condition
    out:       width of the output, where it is not `dim`
    """

    def __init__(
        self,
        dim: int,
        width: int = 32,
        mults: Sequence[int] = (1, 2, 4, 8),
        *,
        attention: bool = False,
        features: str = "sinusoidal",
        cond: Mapping[str, int] | None = None,
        out: int | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.out = dim, dim if out is None else out
        check_sizes("UNet1D", dim=dim, out=self.out, width=width, number_of_mults=len(mults))
        check_sizes("UNet1D", **{f"mults[{i}]": m for i, m in enumerate(mults)})
        if width % GROUPS:
            raise ValueError(f"UNet1D: width must be a multiple of {GROUPS} (the groups of its norms), got {width}")
        self.coarsest = 2 ** (len(mults) - 1)
        channels = [dim, *(width * m for m in mults)]
        last = channels[-1]
        self.hears = Conditioning("UNet1D", features, width, 4 * width, width, cond)
        self.down = nn.ModuleList(_Level(i, o, width, attention) for i, o in pairwise(channels))
        self.coarsen = nn.ModuleList(nn.Conv1d(c, c, 3, stride=2, padding=1) for c in channels[1:-1])
        self.middle = _Level(last, last, width, attention, between=True)
        rising = list(pairwise(reversed(channels[1:])))
        self.up = nn.ModuleList(_Level(2 * i, o, width, attention) for i, o in rising)
        self.refine = nn.ModuleList(nn.ConvTranspose1d(o, o, 4, stride=2, padding=1) for _, o in rising)
        self.final = _ConvBlock(channels[1], channels[1])
        self.leave = nn.Linear(channels[1], self.out)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """`[B, T, out]`."""
        check_input("UNet1D", x, t, (None, self.dim))
        if x.shape[1] % self.coarsest:
            raise ValueError(f"UNet1D: the horizon must be a multiple of {self.coarsest}, got {x.shape[1]} tokens")
        heard = self._heard(t, cond)
        h = x.transpose(1, 2)
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            if i:
                h = self.coarsen[i - 1](h)
            h = level(h, heard[i])
            skips.append(h)
        h = self.middle(h, heard[-1])
        for i, (level, refine) in enumerate(zip(self.up, self.refine, strict=True), start=1):
            h = refine(level(torch.cat([h, skips[-i]], 1), heard[-i]))
        return self.leave(self.final(h).transpose(1, 2))

    def _heard(self, t: Tensor, cond: Cond | None) -> list[Tensor]:
        """The activated embedding at each resolution, finest first: `[B, 1, E]`, or `[B, T / 2^i, E]`."""
        embedding = mish(self.hears(t, cond))
        if t.ndim == 1:
            return [embedding[:, None]] * len(self.down)
        heard = [embedding]
        for _ in self.coarsen:
            heard.append(heard[-1].unflatten(1, (-1, 2)).mean(2))
        return heard


class _Level(nn.Module):
    """Two residual blocks and, where wanted, attention: after both, or between them in the middle of the U."""

    def __init__(self, enter: int, leave: int, embed: int, attention: bool, between: bool = False) -> None:
        super().__init__()
        self.first = Residual(enter, leave, embed)
        self.second = Residual(leave, leave, embed)
        self.attention = _LinearAttention(leave) if attention else None
        self.between = between

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        x = self.first(x, heard)
        if self.attention is None:
            return self.second(x, heard)
        return self.second(self.attention(x), heard) if self.between else self.attention(self.second(x, heard))


class Residual(nn.Module):
    """Two convolution blocks, the embedding added between them, and the input (projected if need be) at the end."""

    def __init__(self, enter: int, leave: int, embed: int) -> None:
        super().__init__()
        self.first = _ConvBlock(enter, leave)
        self.hears = nn.Linear(embed, leave)
        self.second = _ConvBlock(leave, leave)
        self.skip = nn.Conv1d(enter, leave, 1) if enter != leave else None

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        """`[B, enter, T]`, hearing `[B, 1 or T, embed]`, to `[B, leave, T]`."""
        h = self.second(self.first(x) + self.hears(heard).transpose(1, 2))
        return h + (x if self.skip is None else self.skip(x))


class _ConvBlock(nn.Sequential):
    """Conv, GroupNorm, Mish."""

    def __init__(self, enter: int, leave: int) -> None:
        conv = nn.Conv1d(enter, leave, KERNEL, padding=KERNEL // 2)
        super().__init__(conv, nn.GroupNorm(GROUPS, leave), Mish())


class _LinearAttention(nn.Module):
    """x + attention(norm(x)) at a cost linear in the tokens: keys are normalised over the tokens and contracted with
    the values first, `out = (softmax(K)^T V)^T Q`. Four heads of 32.
    """

    def __init__(self, channels: int, heads: int = 4, size: int = 32) -> None:
        super().__init__()
        self.heads, self.scale = heads, size**-0.5
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * size, bias=False)
        self.out = nn.Linear(heads * size, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x.transpose(1, 2))).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [B, T, h, d]
        context = torch.einsum("bthd,bthe->bhde", k.softmax(1), v)
        mixed = torch.einsum("bhde,bthd->bthe", context, q * self.scale)
        return x + self.out(mixed.flatten(2)).transpose(1, 2)
