"""Mixtures of Gaussians on paths of matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kedge.elementary import Level
from kedge.exact.mixture import GaussianMixture
from kedge.paths.linear import LinearPath
from kedge.paths.phase_bridge import PhaseBridge
from kedge.paths.variance_exploding import VarianceExploding
from kedge.tree import Tree


class LinearMixture:
    """The exact `E[x | x_t]` of a mixture over vectors whose entries a path mixes:

    m_k = mu_k + C_k M^T (M C_k M^T + C)^-1 (x_t - M mu_k)
    """

    pinned = "noised"

    def __init__(self, mixture: GaussianMixture, path: LinearPath) -> None:
        if len(mixture.event) != 1:
            raise ValueError(f"LinearMixture: events are vectors, whose axis the path mixes, not {mixture.event}")
        self.mixture, self.path = mixture, path

    def __call__(self, x_t: Tensor, t: Level, cond: Any = None) -> Tensor:
        """`sum_k p(k | x_t) m_k(x_t)`, in the state's dtype."""
        mixture = self.mixture
        M, C = (one[..., None, :, :] for one in (self.path.M(t), self.path.covariance(t)))
        S = M @ mixture.covariances @ M.mT + C  # [*t, K, D, D]
        away = (x_t.double()[:, None] - (M @ mixture.means[..., None])[..., 0])[..., None]
        solved = torch.linalg.solve(S, away)
        m = mixture.means + (mixture.covariances @ M.mT @ solved)[..., 0]
        log_p = -0.5 * (
            (away * solved).sum((-2, -1)) + torch.linalg.slogdet(S)[1] + mixture.dim * math.log(2 * math.pi)
        )
        p = (mixture.weights.log() + log_p).softmax(1)
        return torch.einsum("bk,bki->bi", p, m).to(x_t)


class PhaseMixture:
    """The same on a phase bridge. Position and velocity tell of x what one number tells,

    `w = M^T C^-1 (x, v) / J = x + z / sqrt(J)` with `J = M^T C^-1 M`: the mixture's own denoiser at that noise scale.
    """

    pinned = "noised"

    def __init__(self, mixture: GaussianMixture, path: PhaseBridge) -> None:
        self.mixture, self.path, self._plain = mixture, path, VarianceExploding(t_max=1e9)

    def __call__(self, x_t: Tree, t: float, cond: Any = None) -> Tree:
        """The field `"v"` is 0."""
        assert isinstance(x_t, dict)
        M = self.path.M(t)[:, 0]
        gain = torch.linalg.solve(self.path.covariance(t), M)
        J = float(gain @ M)
        w = (float(gain[0]) * x_t["x"].double() + float(gain[1]) * x_t["v"].double()) / J
        x_hat = self.mixture.posterior_mean(self._plain, w, J**-0.5).to(x_t["x"])
        return {"x": x_hat, "v": torch.zeros_like(x_hat)}
