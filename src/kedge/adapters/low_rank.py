"""LoRA: a large network is moved by small matrices beside its own, which stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from kedge.errors import InputError
from kedge.extras import optional

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
LAYS = "which lays them"


def low_rank(
    net: nn.Module, rank: int = 8, *, alpha: float | None = None, targets: Sequence[str] | None = None
) -> nn.Module:
    """Puts `W + (alpha / rank) B A`, with B and A of `rank`, in the place of W in some layers; B is 0 at first, so that
    the network does what it did. Only A and B are trained from then on. Returns the network, changed in place.

    Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022; the layers are peft's.

    Args:
        net: any network.
        rank: of the change.
        alpha: its scale is alpha / rank; by default 1.
        targets: names of layers, or their ends; by default all linear and convolutional ones.
    """
    peft: Any = optional("peft", "lora", LAYS)
    names = [name for name, module in net.named_modules() if name and isinstance(module, LAYERS)]
    if targets is not None:
        names = [name for name in names if any(name == end or name.endswith(f".{end}") for end in targets)]
    if not names:
        raise InputError(f"low_rank: {type(net).__name__} has no linear or convolutional layer called like {targets}")
    config = peft.LoraConfig(r=rank, lora_alpha=cast(Any, rank if alpha is None else alpha), target_modules=names)
    net.requires_grad_(False)
    return peft.inject_adapter_in_model(config, net)


def merged(net: nn.Module) -> nn.Module:
    """Adds the change to the weights and takes the small matrices away: the network is as large as it was. Returns the
    network, changed in place.
    """
    optional("peft", "lora", LAYS)
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(net.named_modules()):
        if isinstance(module, BaseTunerLayer):
            cast(Any, module).merge()
            net.set_submodule(name, cast(Any, module).get_base_layer())
    return net
