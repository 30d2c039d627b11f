"""A layer whose weights are codes and whose input is rounded to codes: what integers would compute, in floats."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kedge.distill.affine import AffineCodes, channel_codes

LAYERS = (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)
"""What is quantised: all that multiplies by weights."""
ENTERING = ".entering"
"""How the name of the tensor ends that keeps scale, zero and bits of a layer's input."""


class QuantisedLayer(nn.Module):
    """`y = W_q x_q + b`, with W_q by channel and x_q by one static scale, whatever the level is. Products of codes and
    their sums are exact in integers; this computes the same with floats, so it differs from them by rounding alone.

    layer: the one in whose place it stands
    codes: of what comes in; the weights have as many bits
    """

    weight: Tensor
    weight_scale: Tensor
    entering: Tensor

    def __init__(self, layer: nn.Module, codes: AffineCodes) -> None:
        super().__init__()
        if not isinstance(layer, LAYERS):
            raise TypeError(f"{type(layer).__name__} is no layer that can be quantised")
        if getattr(layer, "padding_mode", "zeros") != "zeros":
            raise ValueError(f"a convolution that is padded by {layer.padding_mode} cannot be quantised")
        self.kind, self.codes = type(layer), codes
        self.options = _options(layer)
        self.channel = 1 if isinstance(layer, nn.ConvTranspose1d) else 0
        """The axis of the weights along which outputs lie."""
        weight, scale = channel_codes(layer.weight, codes.bits, self.channel)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.register_buffer("entering", torch.tensor([codes.scale, codes.zero, codes.bits], dtype=torch.float64))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer does."""
        return self.applied(self.codes(x), self.values())

    def values(self) -> Tensor:
        """The weights that the codes stand for."""
        shape = [1] * self.weight.ndim
        shape[self.channel] = -1
        return self.weight.to(self.weight_scale.dtype) * self.weight_scale.reshape(shape)

    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the layer makes of an input by some weights."""
        if self.kind is nn.Linear:
            return functional.linear(x, weight, self.bias)
        call = functional.conv1d if self.kind is nn.Conv1d else functional.conv_transpose1d
        return cast(Any, call)(x, weight, self.bias, **self.options)

    def extra_repr(self) -> str:
        """For those who look at the network."""
        return f"{self.kind.__name__}, {self.codes}"


def _options(layer: nn.Module) -> dict[str, Any]:
    """Of a convolution, by torch's names."""
    if isinstance(layer, nn.Linear):
        return {}
    of = cast(nn.Conv1d, layer)
    named = {"stride": of.stride, "padding": of.padding, "dilation": of.dilation, "groups": of.groups}
    return named | ({"output_padding": of.output_padding} if isinstance(layer, nn.ConvTranspose1d) else {})
