"""Descriptions of optimisers: frozen, comparable, turned into torch's own when a run begins.

Every parameter group carries its `schedule` and its full rate `initial_lr`; `set_rates` writes the rate of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kedge.train.schedules import Schedule
from kedge.train.shards import is_shard, local, own_rows, whole


@runtime_checkable
class OptimiserSpec(Protocol):
    """Anything that can build optimisers for a module."""

    def build(self, module: nn.Module) -> list[Optimizer]:
        """Optimisers that together hold each trainable parameter once; groups may carry a `schedule`."""
        ...


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter, 2019); biases, gains and other vectors are not decayed."""

    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-5
    warmup: int = 100
    hold: int = 0
    decay: str = "constant"

    def __post_init__(self) -> None:
        _check_rate("AdamW", self.lr)
        self.schedule()

    def schedule(self) -> Schedule:
        """The course of the learning rate."""
        return Schedule(self.warmup, self.hold, self.decay)

    def build(self, module: nn.Module) -> list[Optimizer]:
        """One optimiser for all."""
        return [self.over(p for _, _, p in trainable(module))]

    def over(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """torch's AdamW over these parameters, in its fused form where the device has one."""
        chosen = list(parameters)
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in chosen)
        groups: list[dict[str, Any]] = []
        for sharded in (False, True):  # torch moves a group in one go, which may not mix the two
            alike = [p for p in chosen if is_shard(p) == sharded]
            groups.append(_group([p for p in alike if p.ndim >= 2], self.lr, self.schedule(), self.weight_decay))
            groups.append(_group([p for p in alike if p.ndim < 2], self.lr, self.schedule(), 0.0))
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)


@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al., 2024) for weight matrices; AdamW for all else: vectors, convolutions, embeddings and tables.

    Rates are matched to AdamW's by the root mean square of an update, .2 sqrt(max(rows, columns)) (Liu et al., 2025,
    arXiv 2502.16982, section 2.2), so that `lr` and `weight_decay` mean what they mean there; without an `adamw` of its
    own, the rest follows the same rate and schedule. With `convolutions`, their kernels count as matrices too: the
    first axis by all others together.
    """

    lr: float = 1e-3
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 1e-5
    iterations: int = 5
    warmup: int = 100
    hold: int = 0
    decay: str = "constant"
    adamw: AdamW | None = None
    convolutions: bool = False

    def __post_init__(self) -> None:
        _check_rate("Muon", self.lr)
        self.schedule()

    def schedule(self) -> Schedule:
        """The course of the learning rate."""
        return Schedule(self.warmup, self.hold, self.decay)

    def build(self, module: nn.Module) -> list[Optimizer]:
        """Muon for the matrices and AdamW for the rest, as far as there are any."""
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for owner, name, parameter in trainable(module):
            muons = _is_matrix(owner, name, parameter) or (self.convolutions and _is_kernel(owner, parameter))
            (matrices if muons else rest).append(parameter)
        built: list[Optimizer] = []
        if matrices:
            built.append(self._over(matrices))
        if rest:
            same = AdamW(self.lr, weight_decay=self.weight_decay, warmup=self.warmup, hold=self.hold, decay=self.decay)
            built.append((self.adamw or same).over(rest))
        return built

    def _over(self, matrices: list[nn.Parameter]) -> Optimizer:
        return _Flattened(
            matrices,
            _group([], self.lr, self.schedule(), self.weight_decay),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            ns_steps=self.iterations,
            adjust_lr_fn="match_rms_adamw",
        )


STANDS_FOR = "kedge_stands_for"
"""The attribute of a parameter that only an optimiser sees: the module's own, whose memory it shares."""


def moved_by(parameter: Tensor) -> Tensor:
    """The module's parameter that moves with one of an optimiser's: itself, but for the kernels that Muon flattens."""
    return getattr(parameter, STANDS_FOR, parameter)


class _Flattened(torch.optim.Muon):
    """torch's Muon takes two axes only: kernels are given to it as matrices that share their memory. It also wants all
    rows at once: of a sharded matrix the momentum stays sharded, and the direction is gathered for as long as it takes.
    """

    def __init__(self, parameters: list[nn.Parameter], group: dict[str, Any], **options: Any) -> None:
        self.pairs = [(p, nn.Parameter(p.detach().flatten(1))) for p in parameters if p.ndim > 2]
        matrices = [p for p in parameters if p.ndim == 2]
        for kernel, flat in self.pairs:
            setattr(flat, STANDS_FOR, kernel)
        super().__init__([group | {"params": [*matrices, *(flat for _, flat in self.pairs)]}], **options)

    def step(self, closure: Any = None) -> Any:
        """Moves the matrices by the gradients of what they stand for."""
        for kernel, flat in self.pairs:
            if local(flat).data_ptr() != local(kernel).data_ptr():
                raise RuntimeError("Muon: a kernel's memory has moved since the optimiser was built; build it again")
            flat.grad = None if kernel.grad is None else kernel.grad.reshape(flat.shape)
        sharded = [
            (p, p.grad, group)
            for group in self.param_groups
            for p in group["params"]
            if is_shard(p) and p.grad is not None
        ]
        for p, grad, group in sharded:
            self._move_shard(p, grad, group)
            p.grad = None  # torch's own step leaves out what has no gradient
        found = super().step(closure)
        for p, grad, _ in sharded:
            p.grad = grad
        return found

    @torch.no_grad()
    def _move_shard(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """M <- mu M + (1 - mu) G;  W <- (1 - lr decay) W - step(mu M + (1 - mu) G), with nesterov; each its rows."""
        memory = self.state[p]
        if not memory:
            memory["momentum_buffer"] = torch.zeros_like(grad)
        momentum = memory["momentum_buffer"]
        momentum.lerp_(grad, 1 - group["momentum"])
        direction = whole(grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum)
        moved = own_rows({"": _orthogonal_step(direction, group)}, {"": p})[""]
        local(p).mul_(1 - group["lr"] * group["weight_decay"]).add_(local(moved))


def _orthogonal_step(direction: Tensor, group: dict[str, Any]) -> Tensor:
    """What torch's Muon moves a whole matrix by: its step from zero, without momentum or decay."""
    moved = nn.Parameter(torch.zeros_like(direction))
    moved.grad = direction
    same = {name: group[name] for name in ("lr", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")}
    torch.optim.Muon([moved], momentum=0.0, nesterov=False, weight_decay=0.0, **same).step()
    return moved.detach()


def trainable(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Each trainable parameter once, with the module that owns it and its name there."""
    seen: set[int] = set()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield owner, name, parameter


def set_rates(optimisers: Iterable[Optimizer], step: int, steps: int) -> float:
    """Writes the learning rates of `step`; returns the first one, to be shown."""
    shown: float | None = None
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            if "schedule" in group:
                group["lr"] = group["initial_lr"] * group["schedule"](step, steps)
            shown = group["lr"] if shown is None else shown
    return shown or 0.0


def _is_matrix(owner: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter multiplies activations from one space into another. A table of embeddings or positions also
    has two axes, but its rows are looked up, and orthogonalising them has no meaning.
    """
    return parameter.ndim == 2 and "weight" in name and not isinstance(owner, nn.Embedding | nn.EmbeddingBag)


def _is_kernel(owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the kernel of a convolution that mixes channels."""
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
    return isinstance(owner, kinds) and parameter.ndim > 2 and parameter.shape[1] > 1


def _group(parameters: list[nn.Parameter], lr: float, schedule: Schedule, weight_decay: float) -> dict[str, Any]:
    return {
        "params": parameters,
        "lr": lr,
        "initial_lr": lr,
        "weight_decay": weight_decay,
        "schedule": schedule,
    }


def _check_rate(name: str, lr: float) -> None:
    if not lr > 0:
        raise ValueError(f"{name}: the learning rate must be positive, got {lr}")
