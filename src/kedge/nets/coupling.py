"""A normalising flow of affine couplings: samples in one pass, with their density."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kedge.nets.contract import check_sizes
from kedge.nets.mlp import stacked
from kedge.noise import Noise, Seeds
from kedge.slots import FLOW_SLOT


class CouplingFlow(nn.Module):
    """`x = G(z; y)` with z standard normal, invertible in z for every y: a stack of couplings. Each leaves half of the
    entries as they are and moves the other half by what a network says of the first half and of y,

        x_2 = z_2 e^s + m,      (s, m) = net(z_1, y),      log |det dx / dz| = sum s

    with s held within `limit` by a tanh. Which half moves changes from layer to layer. It begins as the identity.

    Dinh, Sohl-Dickstein and Bengio, "Density estimation using real NVP", ICLR 2017.

    dim:        D, entries of x `[B, D]`; with one entry it is an affine map that y decides
    cond:       width of y `[B, cond]`; 0: there is none
    layers:     couplings
    hidden:     widths of each one's network
    activation: "mish", "silu", "gelu", "relu" or "tanh"
    limit:      of the log-scale of a layer
    """

    def __init__(
        self,
        dim: int,
        cond: int = 0,
        layers: int = 6,
        hidden: Sequence[int] = (64, 64),
        *,
        activation: str = "silu",
        limit: float = 2.0,
    ) -> None:
        super().__init__()
        check_sizes("CouplingFlow", dim=dim, layers=layers, **{f"hidden[{i}]": n for i, n in enumerate(hidden)})
        if cond < 0 or not limit > 0:
            raise ValueError(f"CouplingFlow: cond is at least 0 and limit positive, got {cond} and {limit}")
        self.dim, self.cond = dim, cond
        self.couplings = nn.ModuleList(_Coupling(dim, cond, i % 2, hidden, activation, limit) for i in range(layers))

    def forward(self, z: Tensor, y: Tensor | None = None) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        """x and `log |det dx / dz|`."""
        self._check(z, y)
        log_det = z.new_zeros(len(z))
        for coupling in self.couplings:
            z, s = coupling(z, y)
            log_det = log_det + s
        return z, log_det

    def inverse(self, x: Tensor, y: Tensor | None = None) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        """z and `log |det dz / dx|`."""
        self._check(x, y)
        log_det = x.new_zeros(len(x))
        for coupling in reversed(self.couplings):
            x, s = coupling.inverse(x, y)  # type: ignore[operator]
            log_det = log_det - s
        return x, log_det

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Float[Tensor, " b"]:
        """`log N(z; 0, I) + log |det dz / dx|`."""
        z, log_det = self.inverse(x, y)
        return log_det - 0.5 * (z.square().sum(1) + self.dim * math.log(2 * math.pi))

    def sample(self, n: int, y: Tensor | None = None, seeds: Seeds = None) -> Float[Tensor, "n d"]:
        """`[n, D]`, one of each row of y."""
        parameter = next(self.parameters())
        z = Noise.of(seeds, n, parameter.device).normal((n, self.dim), 0, FLOW_SLOT, parameter.dtype)
        return self(z, y)[0]

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"CouplingFlow: expected [B, {self.dim}], got {list(x.shape)}")
        found = None if y is None else list(y.shape)
        if found != (None if self.cond == 0 else [len(x), self.cond]):
            wanted = f"[{len(x)}, {self.cond}]" if self.cond else "None"
            raise ValueError(f"CouplingFlow: y must be {wanted}, got {found}")


class _Coupling(nn.Module):
    """One layer: every second entry moves, beginning with `first`."""

    kept: Tensor
    moved: Tensor

    def __init__(self, dim: int, cond: int, first: int, hidden: Sequence[int], activation: str, limit: float) -> None:
        super().__init__()
        moves = torch.ones(1, dtype=torch.bool) if dim == 1 else torch.arange(dim) % 2 == first
        self.register_buffer("moved", moves.nonzero()[:, 0], persistent=False)
        self.register_buffer("kept", (~moves).nonzero()[:, 0], persistent=False)
        self.limit = limit
        heard, count = len(self.kept) + cond, len(self.moved)
        last = nn.Linear(hidden[-1], 2 * count)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(*stacked([max(heard, 1), *hidden], activation, "CouplingFlow"), last)

    def forward(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        s, m = self._said(z, y)
        return z.index_copy(1, self.moved, z[:, self.moved] * s.exp() + m), s.sum(1)

    def inverse(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        s, m = self._said(x, y)
        return x.index_copy(1, self.moved, (x[:, self.moved] - m) * (-s).exp()), s.sum(1)

    def _said(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """s and m, of the entries that stay and of y."""
        heard = x[:, self.kept] if y is None else torch.cat([x[:, self.kept], y.to(x)], 1)
        if not heard.shape[1]:
            heard = x.new_ones(len(x), 1)
        s, m = self.net(heard).chunk(2, 1)
        return self.limit * (s / self.limit).tanh(), m
