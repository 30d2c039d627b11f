"""Codes multiplied as integers, by torchao.

torchao multiplies int8 by int8 in linear layers, `Int8Tensor`: affine activations at a static scale of the whole
tensor, weights by row. That is what NDTC asks for, so its kernels are taken as they are; `quantize_` with
`Int8StaticActivationInt8WeightConfig` would choose the weights' scales by what is widest, so the tensor is built of
our codes. Convolutions it leaves alone: they become linear layers over the windows that they look through.
"""

from __future__ import annotations

import logging
import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kedge.denoise import Denoiser
from kedge.distill.layers import QuantisedLayer
from kedge.errors import InputError
from kedge.extras import command

MIDDLE = 128
"""torchao's codes are signed: ours less this."""


def in_integers(denoiser: Denoiser) -> Denoiser:
    """A copy of a denoiser that was quantised to 8 bits, whose layers multiply integers."""
    made = deepcopy(denoiser)
    for name, module in list(made.named_modules()):
        if isinstance(module, QuantisedLayer):
            made.set_submodule(name, _IntegerLayer(module))
    return made


class _IntegerLayer(nn.Module):
    """A `QuantisedLayer` by `Int8Tensor`."""

    def __init__(self, layer: QuantisedLayer) -> None:
        super().__init__()
        self.kind, self.options, self.bias = layer.kind, layer.options, layer.bias
        if layer.options and (layer.options["groups"] != 1 or set(layer.options["dilation"]) != {1}):
            raise InputError("in_integers: torchao has no kernel for grouped or dilated convolutions")
        if layer.codes.bits < 8:
            raise InputError(f"in_integers: torchao multiplies codes of 8 bits, and these have {layer.codes.bits}")
        self.size = layer.weight.shape[-1]
        weight, scale = layer.weight, layer.weight_scale
        if self.kind is nn.ConvTranspose1d:  # [in, out, k]: a row for each entry of each window that comes out
            weight, scale = weight.flatten(1).T, scale.repeat_interleave(self.size)
        elif self.kind is nn.Conv1d:
            weight = weight.flatten(1)
        self.weight = nn.Parameter(_tensor(weight.contiguous(), scale, layer), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer does."""
        if self.kind is nn.Linear:
            return self._multiplied(x, self.bias)
        return self._convolved(x) if self.kind is nn.Conv1d else self._spread(x)

    def _multiplied(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """torchao takes a scale of as many axes as its input has: so it is always given two."""
        return functional.linear(x.flatten(0, -2), self.weight, bias).unflatten(0, x.shape[:-1])

    def _convolved(self, x: Tensor) -> Tensor:
        (stride,), (padding,) = self.options["stride"], self.options["padding"]
        windows = functional.pad(x, (padding, padding)).unfold(2, self.size, stride)  # [B, C, L, k]
        return self._multiplied(windows.transpose(1, 2).flatten(2), self.bias).transpose(1, 2)

    def _spread(self, x: Tensor) -> Tensor:
        """Each entry gives a window; where windows lie on each other they are added."""
        (stride,), (padding,), (more,) = (self.options[name] for name in ("stride", "padding", "output_padding"))
        windows = self._multiplied(x.transpose(1, 2), None).transpose(1, 2)
        length = (x.shape[2] - 1) * stride - 2 * padding + self.size + more
        found = functional.fold(windows, (1, length), (1, self.size), padding=(0, padding), stride=(1, stride))[:, :, 0]
        return found if self.bias is None else found + self.bias[:, None]


def _tensor(codes: Tensor, scale: Tensor, layer: QuantisedLayer) -> Any:
    """Codes by row, with what enters."""
    ao = torchao()
    kwargs = ao["QuantizeTensorToInt8Kwargs"](ao["PerTensor"](), ao["MappingType"].ASYMMETRIC)
    zero = torch.tensor([[layer.codes.zero - MIDDLE]], dtype=torch.int8)
    return ao["Int8Tensor"](
        codes,
        scale[:, None].contiguous(),
        [1, codes.shape[1]],
        scale.dtype,
        act_quant_scale=torch.tensor([[layer.codes.scale]], dtype=scale.dtype),
        act_quant_zero_point=zero,
        act_quant_kwargs=kwargs,
    )


def torchao() -> dict[str, Any]:
    """torchao, which says on import which of its kernels for other machines it has not found."""
    logger = logging.getLogger("torchao")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import Int8Tensor, PerTensor
            from torchao.quantization.quant_primitives import MappingType
            from torchao.quantization.quantize_.workflows.int8.int8_tensor import QuantizeTensorToInt8Kwargs
    except ImportError:
        raise InputError(f"in_integers needs torchao: {command(['quant'])}") from None
    finally:
        logger.setLevel(level)
    return {"Int8Tensor": Int8Tensor, "PerTensor": PerTensor, "MappingType": MappingType,
            "QuantizeTensorToInt8Kwargs": QuantizeTensorToInt8Kwargs}  # fmt: skip
