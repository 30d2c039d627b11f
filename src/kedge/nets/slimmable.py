"""One set of weights, networks of several widths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

NORMS = (nn.LayerNorm, nn.GroupNorm)
"""What every width has for itself, where it has weights."""


class Slimmable(nn.Module):
    """A network whose first channels are a network as well (Yu et al., "Slimmable neural networks", ICLR 2019).

    Of each axis that is k widths long, which is k blocks side by side, a share s of the width takes the first share s
    of every block,

        W_s[i w' + a, j w' + b] = W[i w + a, j w + b],    a, b < w' = s w,

    so that what a layer lays side by side, such as queries, keys and values, stays apart, and what is concatenated
    stays in its place. Norms with weights are switched: each width has its own. All the rest is shared.

    Called as the network is, `net(x, t, cond=None)`, it has its whole width; `at(share)` is called alike, and has a
    part of it. One call at a time: a part is a network whose weights are lent to it while it is called. `cut(share)` is
    one with weights of its own, for walks.

    build:  makes the network of a width; all its other sizes stay. Attention has heads of one size, as many as the
            width holds: `lambda width: DiT1D(4, width, heads=width // 64)`
    width:  the whole one
    shares: of it, least first, 1 last
    """

    def __init__(
        self, build: Callable[[int], nn.Module], width: int, shares: Sequence[float] = (0.25, 0.5, 0.75, 1.0)
    ) -> None:
        super().__init__()
        self.width, self.shares = width, tuple(float(share) for share in shares)
        _check_shares(width, self.shares)
        self.whole = build(width)
        # Shapes alone, and in a plain list: what is optimised, saved and averaged are the whole and the norms.
        with torch.device("meta"):
            self.parts = [build(round(share * width)).requires_grad_(False) for share in self.shares[:-1]]
        self._shapes = [{name: value.shape for name, value in _tensors(part).items()} for part in self.parts]
        for part in self.parts:
            _check_alike(part, self.whole)
        self._norms = [name for name, module in self.whole.named_modules() if _switched(module)]
        device = next(self.whole.parameters()).device
        norms = ([_own(part.get_submodule(name), device) for name in self._norms] for part in self.parts)
        self.norms = nn.ModuleList(nn.ModuleList(own) for own in norms)
        for share in self.shares[:-1]:
            self.tensors(share)  # refuses here what has no such part

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Any:
        """As the network of the whole width."""
        return self.whole(x, t, cond)

    def at(self, share: float) -> Callable[..., Any]:
        """The network at a share of its width, called alike; gradients reach the shared weights."""
        if share == 1.0:
            return self
        return partial(self._called, self._place(share))

    def cut(self, share: float) -> nn.Module:
        """A network of that width by itself, with a copy of the weights."""
        if share == 1.0:
            return copy.deepcopy(self.whole)
        net = copy.deepcopy(self.parts[self._place(share)])
        trained = next(self.whole.parameters()).requires_grad
        for name, value in self.tensors(share).items():
            at, _, own = name.rpartition(".")
            module, copied = net.get_submodule(at), value.detach().clone()
            is_parameter = isinstance(getattr(module, own), nn.Parameter)
            setattr(module, own, nn.Parameter(copied, trained) if is_parameter else copied)
        return net.train(self.training)

    def tensors(self, share: float) -> dict[str, Tensor]:
        """Parameters and buffers of a part, by name."""
        place = self._place(share)
        whole, found = _tensors(self.whole), dict[str, Tensor]()
        norms = zip(self._norms, list(self.norms)[place].children(), strict=True)
        own = {f"{name}.{key}": value for name, norm in norms for key, value in norm.named_parameters()}
        for name, shape in self._shapes[place].items():
            found[name] = own[name] if name in own else self._part(name, whole[name], shape)
        return found

    def train(self, mode: bool = True) -> Slimmable:
        """Parts are trained, or are not, as the whole is."""
        for part in self.parts:
            part.train(mode)
        super().train(mode)
        return self

    def _called(self, place: int, x: Tensor, t: Tensor, cond: Any = None) -> Any:
        return functional_call(self.parts[place], self.tensors(self.shares[place]), (x, t, cond))

    def _part(self, name: str, value: Tensor, shape: Sequence[int]) -> Tensor:
        """The first channels of every block, axis by axis."""
        for axis, (size, less) in enumerate(zip(value.shape, shape, strict=True)):
            if size == less:
                continue
            blocks, rest = divmod(size, self.width)
            if rest or less % blocks:
                raise ValueError(f"Slimmable: {name} has an axis of {size}, which is no multiple of width {self.width}")
            value = value.unflatten(axis, (blocks, self.width)).narrow(axis + 1, 0, less // blocks)
            value = value.flatten(axis, axis + 1)
        return value

    def _place(self, share: float) -> int:
        if share not in self.shares:
            raise ValueError(f"Slimmable: no share {share} of the width; there are {', '.join(map(str, self.shares))}")
        return self.shares.index(share)


def multiply_adds(call: Callable[[], Any]) -> int:
    """How often a call multiplies and adds, in its matrix products, convolutions and attention."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        call()
    return counted.get_total_flops() // 2


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def _check_shares(width: int, shares: tuple[float, ...]) -> None:
    rising = list(shares) == sorted(set(shares)) and shares[-1:] == (1.0,)
    if not rising or any(share <= 0 or (share * width) % 1 for share in shares):
        said = ", ".join(map(str, shares))
        raise ValueError(f"Slimmable: shares of width {width} are whole channels, least first, 1 last, not {said}")


def _check_alike(part: nn.Module, whole: nn.Module) -> None:
    axes, wanted = ({name: value.ndim for name, value in _tensors(net).items()} for net in (part, whole))
    if axes != wanted:
        odd = ", ".join(sorted({name for name, _ in axes.items() ^ wanted.items()})[:3])
        raise ValueError(f"Slimmable: build makes other layers at another width: {odd}")


def _switched(module: nn.Module) -> bool:
    return isinstance(module, NORMS) and module.weight is not None


def _own(norm: nn.Module, device: torch.device) -> nn.Module:
    """A norm as it starts."""
    own: Any = copy.deepcopy(norm).to_empty(device=device)
    own.reset_parameters()
    return own.requires_grad_(True)
