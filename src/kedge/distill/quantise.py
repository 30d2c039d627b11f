"""A trained denoiser in codes of few bits: scales from what it is asked, nothing trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from kedge.denoise import Denoiser
from kedge.distill.affine import AffineCodes, least_squares
from kedge.distill.asked import Asked
from kedge.distill.layers import ENTERING, LAYERS, QuantisedLayer

KEPT = 1 << 15
"""Entries of what enters a layer that its scale is fitted to."""
ENDS = 8
"""Bits of the layer that meets the state first and of the last one, however few the others have: as it is published."""
SHOWN = 256
"""States in one call of the network."""


def quantised(denoiser: Denoiser, asked: Asked, bits: int = 8, *, seed: int = 0) -> Denoiser:
    """A copy of the denoiser, each of whose linear and convolutional layers is a `QuantisedLayer`. What solvers compute
    stays in floats, as do norms, activations and tables.

    Args:
        denoiser: trained; it stays as it is.
        asked: what it is asked: `asked_on_walks`.
        bits: of weights and activations.
        seed: of the entries that scales are fitted to.
    """
    found = entering(denoiser, asked, seed=seed)
    if not found:
        raise ValueError("quantised: the network has no linear or convolutional layer that was asked anything")
    first, last = _ends(denoiser, asked)
    made = deepcopy(denoiser).eval().requires_grad_(False)
    for name, values in found.items():
        own = max(bits, ENDS) if name in (first, last) else bits
        _put(made, name, least_squares(values, own))
    return made


def entering(denoiser: Denoiser, asked: Asked, *, seed: int = 0) -> dict[str, Tensor]:
    """Some entries of what enters each layer, by its name, in the order in which they are called."""
    found: dict[str, list[Tensor]] = {}
    calls = math.ceil(len(asked.x) / SHOWN)
    generator = torch.Generator().manual_seed(seed)

    def keep(name: str, x: Tensor) -> None:
        flat = x.detach().flatten()
        some = torch.randint(len(flat), (min(KEPT // calls, len(flat)),), generator=generator)
        ends = torch.stack([flat.min(), flat.max()])  # the grid of ranges begins with all that occurs
        found.setdefault(name, []).append(torch.cat([flat[some.to(flat.device)], ends]))

    with torch.no_grad():
        _shown(denoiser, asked, keep)
    return {name: torch.cat(parts) for name, parts in found.items()}


def requantised(denoiser: Denoiser, saved: Mapping[str, Tensor]) -> Denoiser:
    """A denoiser with the layers of a quantised one, whose tensors were saved and are to be loaded into it. It is
    changed in place.
    """
    for name, codes in saved_codes(saved).items():
        _put(denoiser, name, codes)
    return denoiser


def saved_codes(saved: Mapping[str, Tensor]) -> dict[str, AffineCodes]:
    """What enters each quantised layer, of the tensors of a network."""
    found: dict[str, AffineCodes] = {}
    for name, value in saved.items():
        if name.endswith(ENTERING):
            scale, zero, bits = value.tolist()
            found[name.removesuffix(ENTERING)] = AffineCodes(scale, int(zero), int(bits))
    return found


def _put(denoiser: Denoiser, name: str, codes: AffineCodes) -> None:
    layer = denoiser.get_submodule(name)
    denoiser.set_submodule(name, QuantisedLayer(layer, codes).to(next(layer.parameters()).device))


def _ends(denoiser: Denoiser, asked: Asked) -> tuple[str, str]:
    """The first layer to whose input the state leads, and the last one that is called."""
    led: list[str] = []
    called: list[str] = []

    def note(name: str, x: Tensor) -> None:
        called.append(name)
        if x.requires_grad:
            led.append(name)

    frozen = deepcopy(denoiser).requires_grad_(False)
    few = asked.take(torch.arange(min(2, len(asked.x))))
    with torch.enable_grad():
        _shown(frozen, Asked(few.x.clone().requires_grad_(), few.t, few.cond), note)
    return led[0], called[-1]


def _shown(denoiser: Denoiser, asked: Asked, note: Callable[[str, Tensor], Any]) -> None:
    """Asks the denoiser all of it, and notes what enters each layer."""
    layers = {name: module for name, module in denoiser.named_modules() if isinstance(module, LAYERS)}

    def hooked(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: note(name, inputs[0])

    hooks = [module.register_forward_pre_hook(hooked(name)) for name, module in layers.items()]
    try:
        for some in torch.arange(len(asked.x)).split(SHOWN):
            part = asked.take(some.to(asked.x.device)) if len(asked.x) > SHOWN else asked
            denoiser.estimate(part.x, part.t, denoiser.prepare(part.cond))
    finally:
        for hook in hooks:
            hook.remove()
