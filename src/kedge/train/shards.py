"""Tensors of which each process holds its own rows, and the modules that are made of them (FSDP2)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedge.errors import InputError
from kedge.train.crew import Crew

Layout = Callable[[str, torch.Size], Tensor | None]
"""Of a saved tensor's name and size: a sharded tensor that has its rows where those of the saved one are to be."""


def is_shard(tensor: Any) -> bool:
    """Whether this process holds only its rows of it. A run that shards nothing has not imported what could tell."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """The rows that are here, in the same memory; all of a tensor that is whole."""
    return tensor.detach().to_local() if is_shard(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def whole(tensor: Tensor) -> Tensor:
    """All rows. The processes ask for those of a sharded tensor together."""
    return tensor.detach().full_tensor() if is_shard(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def empty_like(size: torch.Size, dtype: torch.dtype, like: Tensor | None) -> Tensor:
    """Room for a tensor, whole on the CPU or for this process's rows as `like` has them."""
    if like is None:
        return torch.empty(size, dtype=dtype)
    import torch.distributed.tensor as sharded

    at: Any = like
    return sharded.empty(*size, dtype=dtype, device_mesh=at.device_mesh, placements=at.placements)


def own_rows(saved: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `saved`, sharded where those of `like` are: a value that is whole gives this process its rows."""
    return {name: _rows(value, like.get(name)) for name, value in saved.items()}


def _rows(value: Any, like: Any) -> Any:
    if not isinstance(value, Tensor) or is_shard(value) or not fits(value.shape, like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def fits(size: torch.Size, like: Any) -> bool:
    """Whether a tensor of this size has its rows where `like` has them: what is kept of each entry of a parameter."""
    return is_shard(like) and len(size) > 0 and size[0] == like.shape[0]


def several(crew: Crew) -> None:
    """One line where there is nobody to share with."""
    if crew.size == 1:
        raise InputError(
            "there is one process, and sharding divides a training among several: start it with torchrun "
            "--nproc-per-node 2 (or more), or train without --shard (shard=True)"
        )


class Sharding:
    """The networks of a run, whose parameters and gradients, and what optimisers and shadows keep of them, are divided
    by rows among the processes. A network is gathered when it is called, and given back after its gradient was taken.

    Zhao et al., "PyTorch FSDP: experiences on scaling fully sharded data parallel", 2023, arXiv 2304.11277.
    """

    def __init__(self, crew: Crew, device: torch.device) -> None:
        several(crew)
        from torch.distributed.device_mesh import init_device_mesh

        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.mesh = init_device_mesh(device.type, (crew.size,))
        self.networks: list[Any] = []

    def shard(self, networks: Sequence[nn.Module], where: str) -> None:
        """Divides these, of modules inside one another the inner ones first."""
        called = [one for network in networks for one in _called(network)]
        for network in sorted(called, key=lambda module: sum(1 for _ in module.modules())):
            if self._has(network) or not any(True for _ in network.parameters()):
                continue
            self._divide(network, where)

    def follow(self, copy: nn.Module, followed: nn.Module | None) -> None:
        """Divides a copy as the module is that it was copied from."""
        for name, network in () if followed is None else reversed(list(followed.named_modules())):
            twin = copy.get_submodule(name)
            if self._has(network) and not self._has(twin):
                self._divide(twin, "shadow")

    def fold(self) -> None:
        """Gives back what is gathered: whoever moves parameters, or looks for them, has to find the rows."""
        for network in self.networks:
            network.reshard()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Everything is gathered, so that one process can call networks while the others wait."""
        for network in self.networks:
            network.unshard()
        yield
        self.fold()

    def _has(self, module: nn.Module) -> bool:
        return any(module is network for network in self.networks)

    def _divide(self, network: nn.Module, where: str) -> None:
        from torch.distributed.fsdp import fully_shard

        try:
            # What was gathered stays until its gradient was taken: it is then that the parameters of the module are the
            # leaves of the graph, and a gradient can end at those of its own part.
            network.register_forward_hook(_unviewed)
            fully_shard(network, mesh=self.mesh, reshard_after_forward=False)
        except (ValueError, NotImplementedError, AssertionError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{where}: a {type(network).__name__} cannot be sharded ({reason})") from None
        self.networks.append(network)


def _unviewed(module: nn.Module, args: Any, output: Any) -> Any:
    """An output with memory of its own: FSDP2 loses the gradient of a view that is written into, and warns of it."""
    viewed = isinstance(output, Tensor) and output.requires_grad and output._is_view()  # pyright: ignore[reportPrivateUsage]
    return output.clone() if viewed else output


def _called(network: nn.Module) -> Iterator[nn.Module]:
    """The modules that are called: a bare list of modules never is, its members are."""
    if isinstance(network, nn.ModuleList | nn.ModuleDict):
        for member in network.children():
            yield from _called(member)
    else:
        yield network
