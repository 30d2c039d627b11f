"""Posteriors in one pass: a flow that samples `p(x | y)` for any y, the prior being a diffusion model.

    loss = E_{y, z}[-log p(y | x) + b(x) - log |det dx / dz|],      x = G(z; y)

which is `E_y KL(q(x | y) || p(x | y))` up to a constant where `b = -log p`. A denoiser bounds it: `b` is the negative
evidence lower bound of the diffusion, and its gradient goes to x. It needs measurements y alone, no pairs (x, y), and
its entropy is the flow's own, by the log-determinant: without it the flow would end in the most likely x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kedge.denoise import as_estimator
from kedge.fit import denoising_error
from kedge.fit.draw import drawn
from kedge.noise import Noise
from kedge.paths.gaussian import GaussianPath
from kedge.slots import LATENT_SLOT
from kedge.train import OptimiserSpec, Part, Tick
from kedge.tree import sum_event, tree_map

LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""`log_likelihood(x, y) -> [B]`, differentiable in x."""


LEAST_LOG_SNR = -50.0
"""At which a path must end: levels are drawn evenly in the log-SNR, and below nothing of the data is left to learn."""


def negative_elbo(denoiser: Any, x: Tensor, noise: Noise, step: int) -> Tensor:
    """`[B]`, an estimate of a bound on `-log p(x)`, p being what the denoiser samples; differentiable in x.

    With log-SNR `l` from `l_0`, that of `t_max`, to `l_1`, that of `t_min`, taken at one random level each,

        b(x) = alpha_0^2 |x|^2 / (2 sigma_0^2)                      the noise end: KL(q(x_t | x) || N(0, sigma_0^2))
             + (l_1 - l_0) / 2  E_l |z - z_hat(x_l)|^2              the way
             + D / 2 (1 + log(2 pi sigma_1^2 / alpha_1^2))          the clean end: N(x; x_t / alpha_1, ...)

    For the exact denoiser and a wide range of levels it is `-log p(x)`, at every x.

    Kingma et al., "Variational diffusion models", NeurIPS 2021, eq. 11-15.
    """
    estimator = as_estimator(denoiser)
    path, D = estimator.path, x[0].numel()
    low, high = path.log_snr(path.t_max), path.log_snr(path.t_min)
    if low < LEAST_LOG_SNR:
        raise ValueError(f"negative_elbo: the log-SNR of {path} falls to {low:.3g}; give it a smaller t_max")
    draw = drawn(partial(_even, low, high), "stratified", path, x, noise, step)
    error, _ = denoising_error(denoiser, x, draw, space="eps")
    start = 0.5 * math.exp(low) * sum_event(x**2)
    end = 0.5 * D * (1 + math.log(2 * math.pi) - high)
    # near the clean end z_hat says little and |z|^2 is all that varies: its excess has the mean 0
    surplus = (path.log_snr(draw.t).sigmoid() ** 2).to(x) * (sum_event(tree_map(torch.square, draw.z)) - D)
    return start + 0.5 * (high - low) * (sum_event(error) - surplus) + end


def _even(low: float, high: float, path: GaussianPath, u: Tensor) -> Tensor:
    """The times at which the log-SNR is spread evenly."""
    return path.time_of(high - u * (high - low))


class PosteriorLoss(nn.Module):
    """The reverse divergence of a flow from the posteriors of a likelihood and a diffusion prior; see the module.

    A batch is the measurements y `[B, C]`, or a dictionary with them under "y". The flow alone is trained; the prior
    stays as it is, and where it is.

    Mammadov, Chung and Ye, "Amortized posterior sampling with diffusion prior distillation", 2024.

    Args:
        flow: `flow(z, y) -> (x, log_det)`, such as a `kedge.nets.CouplingFlow`.
        denoiser: the prior.
        log_likelihood: of y given x.
        draws: levels at which the prior is asked for each x.
    """

    def __init__(self, flow: nn.Module, denoiser: Any, log_likelihood: LogLikelihood, *, draws: int = 4) -> None:
        super().__init__()
        if draws < 1:
            raise ValueError(f"PosteriorLoss: at least one draw is wanted, got {draws}")
        self.flow, self.denoiser = flow, denoiser
        self.log_likelihood, self.draws = log_likelihood, draws

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: the flow, on this loss. Options are those of `kedge.train.Part`."""
        return Part(self.flow, self, optimiser, **options)

    def forward(self, batch: Any, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """`[B]`, and its three terms."""
        y: Tensor = batch if isinstance(batch, Tensor) else batch["y"]
        noise = tick.noise(len(y))
        z = noise.normal((len(y), self.flow.dim), tick.step, LATENT_SLOT, y.dtype)  # type: ignore[arg-type]
        x, log_det = self.flow(z, y)
        fit = -self.log_likelihood(x, y)
        many = tick.noise(len(y) * self.draws)
        prior = negative_elbo(self.denoiser, x.repeat_interleave(self.draws, 0), many, tick.step)
        prior = prior.reshape(len(y), self.draws).mean(1)
        entropy = log_det + 0.5 * z[0].numel() * (1 + math.log(2 * math.pi))
        info = {"fit": fit.detach().mean(), "prior": prior.detach().mean(), "entropy": entropy.detach().mean()}
        return fit + prior - entropy, info
