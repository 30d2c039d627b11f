"""The denoiser of a diffusers pipeline: a network that hears discrete steps, on the path of its scheduler's table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.denoise import Denoiser, Prediction
from kedge.errors import InputError
from kedge.paths import Tabled
from kedge.tree import first_leaf, lead

HEARS = {"prompt": "encoder_hidden_states"}
"""What the fields of a condition are called where the network is called."""

PREDICTS: dict[str, Prediction] = {"epsilon": "eps", "sample": "clean", "v_prediction": "edm"}
"""What diffusers calls what a network predicts. `v = alpha z - sigma x`, so that `x_hat = alpha x_t - sigma v`: EDM's
form with a sigma_data of 1, and the sign turned."""


def denoiser_of(pipeline: Any, hears: Mapping[str, str] = HEARS, null: Mapping[str, Tensor] | None = None) -> Denoiser:
    """What a pipeline denoises with. The weights are the pipeline's own: what moves them moves the pipeline.

    Args:
        pipeline: with a `unet` (or a `transformer`) that predicts noise, the clean sample or v, and a scheduler of a
            discrete diffusion (`alphas_cumprod`): Stable Diffusion's, say, or DDPM's.
        hears: the fields of a condition, and what the network calls them.
        null: what it hears where a field is null: of a prompt, the embedding of the empty one. For guidance.
    """
    model = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{type(pipeline).__name__} has neither a unet nor a transformer: there is nothing to denoise with"
        )
    path, kind = path_of(pipeline.scheduler), pipeline.scheduler.config.get("prediction_type", "epsilon")
    quantity = PREDICTS.get(kind)
    if quantity is None:
        raise InputError(f"{type(pipeline.scheduler).__name__} predicts {kind!r}: known are {', '.join(PREDICTS)}")
    net = Called(model, path, hears, null, sign=-1.0 if quantity == "edm" else 1.0)
    return Denoiser(net, path, quantity, sigma_data=1.0 if quantity == "edm" else None, hears="log_snr")


def path_of(scheduler: Any) -> Tabled:
    """The path that a scheduler of a discrete diffusion walks on."""
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        raise InputError(f"{type(scheduler).__name__} has no table alphas_cumprod: it is of no discrete diffusion")
    return Tabled.of(table)


class Called(nn.Module):
    """A network of diffusers as the kernel calls one: `net(x, log_snr, cond)`. `sign` is that of its output."""

    def __init__(
        self, model: nn.Module, path: Tabled, hears: Mapping[str, str], null: Mapping[str, Tensor] | None, sign: float
    ) -> None:
        super().__init__()
        self.model, self.path, self.hears, self.null, self.sign = model, path, dict(hears), dict(null or {}), sign

    def forward(self, x: Tensor, told: Tensor, cond: Cond | None = None) -> Tensor:
        """See the class."""
        step = self.path.step_of(self.path.time_of(told.double())).to(x.dtype)
        given = {} if cond is None else {called: self._field(cond, name, x) for name, called in self.hears.items()}
        return self.sign * self.model(x, step, **given, return_dict=False)[0]

    def _field(self, cond: Cond, name: str, x: Tensor) -> Tensor:
        """A field of the condition, with what stands for it where it is null."""
        if name not in cond.fields:
            raise InputError(
                f"the network hears {', '.join(self.hears)}, and the condition has {', '.join(cond.fields)}"
            )
        value, keep = cond.fields[name].to(x.dtype), cond.keep[name]
        if bool(keep.all()):
            return value
        if name not in self.null:
            raise InputError(f"{name} is null for some samples: say with null= what the network hears then")
        return torch.where(lead(keep, value) > 0, value, self.null[name].to(value))


@dataclass(frozen=True)
class OfImages:
    """A reward of latents, by one of the images that a pipeline's autoencoder makes of them, in [0, 1].

    The images are made without gradients, a few at a time.
    """

    reward: Callable[[Tensor, Any], Any]
    pipeline: Any
    at_once: int = 8

    @torch.no_grad()
    def __call__(self, x: Any, cond: Any = None) -> Any:
        """See the class."""
        vae, images = self.pipeline.vae, []
        for part in first_leaf(x).split(self.at_once):
            latents = part / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
            images.append(vae.decode(latents.to(vae.dtype), return_dict=False)[0])
        return self.reward((torch.cat(images) / 2 + 0.5).clamp(0, 1), cond)
