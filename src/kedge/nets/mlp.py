"""A flat residual network: the one for actions, low-dimensional states and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.nets.activations import Mish
from kedge.nets.contract import check_input, check_sizes
from kedge.nets.embeddings import Conditioning

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "mish": Mish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """The residual network with layer norms of IDQL (Hansen-Estruch et al., "IDQL: implicit Q-learning as an
    actor-critic method with diffusion policies", 2023), laid out as CleanDiffuser's `IDQLMlp`, which adds the condition
    to the level's embedding: concatenate x and embedding, Linear; `depth` times x + (LayerNorm, Linear to `expansion`
    times the width, activation, Linear); activation, Linear. Nothing starts at zero.

    Called as `net(x, t, cond=None)`, and returns a tensor of x's shape (but for `out`):

    x:    `[B, *shape]`: `[B, D]`, or `[B, T, D]`, flattened inside
    t:    c_noise = 1/4 ln(noise scale), `[B]`, or `[B, T]` where x has tokens: one level a token
    cond: None (all fields null), or a `Cond` with the fields given here

    shape:      D, or (T, D)
    width:      of the hidden layers
    depth:      number of residual blocks
    embed:      width of the embedding, and of the features of t
    expansion:  a block's inner width over `width`
    activation: "mish", "silu", "gelu", "relu" or "tanh"
    dropout:    before each block's norm (the source's locomotion policies use .1)
    features:   of t: "sinusoidal" or "fourier"
    levels:     what a flat network hears of one level a token: "mean", the average of the tokens' embeddings, which
                does not tell which token has which level; or "each", all of them side by side, with a wider first layer
    cond:       width of each field of the condition
    out:        width of the output's last axis, where it is not x's
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        width: int = 256,
        depth: int = 3,
        *,
        embed: int = 64,
        expansion: int = 4,
        activation: str = "mish",
        dropout: float = 0.0,
        features: str = "sinusoidal",
        levels: Literal["mean", "each"] = "mean",
        cond: Mapping[str, int] | None = None,
        out: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        check_sizes("MLP", **{f"shape[{i}]": n for i, n in enumerate(self.shape)})
        check_sizes("MLP", width=width, depth=depth, embed=embed, expansion=expansion, axes_of_shape=len(self.shape))
        self.dim = self.shape[-1]
        self.out = self.dim if out is None else out
        check_sizes("MLP", out=self.out)
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
        if levels == "each" and len(self.shape) < 2:
            raise ValueError(f"MLP: levels='each' needs tokens, a shape like (T, D), got shape {self.shape}")
        self.each = levels == "each"
        act = ACTIVATIONS[activation]
        size = torch.Size(self.shape).numel()
        heard = embed * (self.shape[0] if self.each else 1)
        self.hears = Conditioning("MLP", features, embed, 2 * embed, embed, cond)
        self.enter = nn.Linear(size + heard, width)
        self.blocks = nn.Sequential(*(_Residual(width, expansion, act, dropout) for _ in range(depth)))
        self.leave = nn.Sequential(act(), nn.Linear(width, size // self.dim * self.out))

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """`[B, *shape]`, its last axis `out` wide."""
        check_input("MLP", x, t, self.shape)
        embedding = self._flat(self.hears(t, cond))
        h = self.enter(torch.cat([x.flatten(1), embedding], 1))
        return self.leave(self.blocks(h)).reshape(*x.shape[:-1], self.out)

    def _flat(self, embedding: Tensor) -> Tensor:
        """The embedding of the tokens' levels as one vector a sample."""
        if self.each:
            per_token = embedding if embedding.ndim == 3 else embedding[:, None].expand(-1, self.shape[0], -1)
            return per_token.flatten(1)
        return embedding if embedding.ndim == 2 else embedding.mean(1)


def stacked(widths: Sequence[int], activation: str, where: str) -> list[nn.Module]:
    """Linear layers from width to width, each with its activation."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{where}: unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    act = ACTIVATIONS[activation]
    return [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), act())]


class _Residual(nn.Module):
    """x + Linear(activation(Linear(LayerNorm(dropout(x)))))."""

    def __init__(self, width: int, expansion: int, act: type[nn.Module], dropout: float) -> None:
        super().__init__()
        parts = [nn.LayerNorm(width), nn.Linear(width, expansion * width), act(), nn.Linear(expansion * width, width)]
        self.inner = nn.Sequential(*([nn.Dropout(dropout)] if dropout else []), *parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)
