"""What is known of a denoiser beforehand: three coefficients for each log-SNR and entry, of which DPM-Solver-v3 makes
its steps. They are fitted in `kedge.distill`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GAUSS = 6
"""Nodes of the Gauss-Legendre rule on each cell of the table: exact for the polynomials that stand in the exponents."""
SPLINE = 4
"""Table entries that a value between two of them is made of: a cubic, whose error falls with the fourth power."""

REMEMBERED = 1024
"""Integrals between two levels: those of some grids."""


class March(NamedTuple):
    """Integrals from lambda_a on, in units of lambda: at lambda_b, `L = int l`, `S = int s`, `B = int e^{-S} b`; over
    the way `J_k = int e^{L + S} r^k`, with r from 0 to 1, and `C = int e^{L + S} B`.
    """

    L: Tensor
    S: Tensor
    B: Tensor
    J: Tensor
    C: Tensor


@dataclass(frozen=True, eq=False)
class Statistics:
    """Coefficients l, s and b of DPM-Solver-v3 (Zheng et al., 2023, eq. 4-11), entry by entry.

    Args:
        at: `[N]` values of `lambda = log(alpha / sigma)`, rising; beyond them the nearest row counts.
        l: `[N, *entries]`, of the linear part that is taken out of the noise estimate.
        s: the same, of the part of the change of the rest that is proportional to it.
        b: the same, of the part of that change that is constant.
    """

    at: Tensor
    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        if self.at.ndim != 1 or len(self.at) < SPLINE or not bool((self.at.diff() > 0).all()):
            raise ValueError(
                f"Statistics: at holds {SPLINE} or more values of lambda, rising; got {list(self.at.shape)}"
            )
        for name, value in (("l", self.l), ("s", self.s), ("b", self.b)):
            if value.shape != self.l.shape or len(value) != len(self.at) or not bool(value.isfinite().all()):
                raise ValueError(f"Statistics: {name} of {list(value.shape)} does not fit, or is not finite")

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        rows = torch.stack([self.l, self.s, self.b], 1).double().cpu()
        return self.at.double().cpu().numpy(), rows.numpy()

    def of(self, lam: np.ndarray) -> np.ndarray:
        """`[M, 3, *entries]`: l, s and b at each lambda, by the cubic through the four nearest rows."""
        at, rows = self._table
        lam = lam.clip(at[0], at[-1])
        first = (np.searchsorted(at, lam) - SPLINE // 2).clip(0, len(at) - SPLINE)
        near = at[first[:, None] + np.arange(SPLINE)]
        weights = np.ones_like(near)
        for j in range(SPLINE):
            for i in range(SPLINE):
                if i != j:
                    weights[:, j] *= (lam - near[:, i]) / (near[:, j] - near[:, i])
        return np.einsum("mj,mj...->m...", weights, rows[first[:, None] + np.arange(SPLINE)])

    def linear(self, lam: float) -> Tensor:
        """`[1, *entries]`: l at one lambda."""
        return torch.as_tensor(self.of(np.array([lam]))[:, 0])

    @cached_property
    def _marches(self) -> dict[tuple[float, float], March]:
        return {}

    def march(self, a: float, b: float) -> March:
        """See `March`. The steps of a walk share their integrals, which are remembered."""
        if len(self._marches) > REMEMBERED:
            self._marches.clear()
        if (a, b) not in self._marches:
            self._marches[a, b] = self._march(a, b)
        return self._marches[a, b]

    def _march(self, a: float, b: float) -> March:
        """On each cell of the table the rule of Gauss and Legendre, also for what is integrated within."""
        at, rows = self._table
        if a == b:
            none = torch.zeros(1, *rows.shape[2:], dtype=torch.float64)
            return March(none, none, none, none.expand(SPLINE, *none.shape[1:]), none)
        inner = at[(at > min(a, b)) & (at < max(a, b))]
        mesh = np.array([a, *(inner if b > a else inner[::-1]), b])
        width = np.diff(mesh)
        nodes, weights, partial = _rule()
        places = mesh[:-1, None] + width[:, None] * nodes
        rows = self.of(places.ravel())
        rows = rows.reshape(*places.shape, *rows.shape[1:])
        l, s, beta = rows[:, :, 0], rows[:, :, 1], rows[:, :, 2]  # noqa: E741

        def summed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """At each node, and at the end."""
            wide = width.reshape(-1, *[1] * (values.ndim - 1))
            whole = np.einsum("m,cm...->c...", weights, values) * wide[:, 0]
            before = np.concatenate([np.zeros_like(whole[:1]), whole.cumsum(0)])
            inside = np.einsum("nm,cm...->cn...", partial, values) * wide
            return before[:-1, None] + inside, before[-1]

        (L, L_end), (S, S_end) = summed(l), summed(s)
        B, B_end = summed(np.exp(-S) * beta)
        grown = np.exp(L + S)
        r = ((places - a) / (b - a)).reshape(*places.shape, *[1] * (l.ndim - 2))
        J = np.stack([summed(grown * r**k)[1] for k in range(SPLINE)])
        L_end, S_end, B_end, C_end = (torch.as_tensor(end)[None] for end in (L_end, S_end, B_end, summed(grown * B)[1]))
        return March(L_end, S_end, B_end, torch.as_tensor(J), C_end)

    def save(self, path: Path, **made: Any) -> None:
        """As a safetensors file; beside it, in JSON, what they were made of."""
        named = {"at": self.at, "l": self.l, "s": self.s, "b": self.b}
        save_file({name: value.contiguous() for name, value in named.items()}, path)
        path.with_suffix(".json").write_text(
            json.dumps({"rows": len(self.at), "entries": list(self.l.shape[1:]), **made})
        )

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """What was saved."""
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no statistics there; kedge.distill.statistics_of makes them of a denoiser"
            )
        found = load_file(path)
        if sorted(found) != ["at", "b", "l", "s"]:
            raise ValueError(f"{path}: statistics hold at, l, s and b, not {', '.join(sorted(found))}")
        return cls(**found)


def _rule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1], and those of the integrals from 0 to each node."""
    x, w = np.polynomial.legendre.leggauss(GAUSS)
    nodes, weights = (x + 1) / 2, w / 2
    powers = nodes[:, None] ** np.arange(GAUSS)
    upto = nodes[:, None] ** np.arange(1, GAUSS + 1) / np.arange(1, GAUSS + 1)
    return nodes, weights, upto @ np.linalg.inv(powers)
