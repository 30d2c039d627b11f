"""A walk in one piece: what torch's compiler, or a GPU that replays, makes of all its steps together."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from kedge.capture import CudaGraph, Recorder, Replay
from kedge.errors import InputError
from kedge.noise import Noise, Seeds
from kedge.tree import Tree, all_finite, first_leaf
from kedge.walk.walk import Walk, planned


class Whole:
    """`whole(x, cond, seeds)` is `walk.run(x, cond, seeds=seeds).x`: the same noise, and no gradients.

    Keys of the noise are made outside and go in as a tensor, so that other seeds are other numbers and nothing else.
    """

    def __init__(self, walk: Walk, run: Callable[[Tree, Any, Tensor], Tree], check: bool) -> None:
        self.walk, self.check, self._run = walk, check, run

    def __call__(self, x: Tree, cond: Any = None, seeds: Seeds = None) -> Any:
        """Where the walk ends."""
        leaf = first_leaf(x)
        noise = Noise(Noise.of(seeds, leaf.shape[0], leaf.device).key)
        planned(self.walk.path, self.walk.grid, self.walk.solver, leaf.device)  # remembered, and nothing left to check
        with torch.no_grad():
            end = self._run(x, cond, noise.key)
        if self.check and not all_finite(end):
            self.walk.run(x, cond, seeds=noise)  # says in which step
            raise ValueError("the walk in one piece ended in numbers that are not finite; step by step it does not")
        return end


class Compiled(Whole):
    """By `torch.compile`, as one graph. The first call of a shape compiles, in seconds to minutes; so does a new batch
    size, but not other seeds, starts, conditions or weights. Numbers are the walk's to rounding.

    Args:
        walk: any but an adaptive one, or one that a hook records.
        backend: of torch's compiler.
        dynamic: True: one graph for all batch sizes; False: one for each; None: torch decides, at the second size.
        check: whether an end that is not finite is an error, as in `Walk.run`.
        how: further options of `torch.compile`.
    """

    def __init__(
        self,
        walk: Walk,
        backend: str | Callable[..., Any] = "inductor",
        dynamic: bool | None = None,
        check: bool = True,
        **how: Any,
    ) -> None:
        options: Any = {"backend": backend, "dynamic": dynamic, "fullgraph": True}
        if "isolate_recompiles" in signature(torch.compile).parameters:
            # torch compiles a function so many times and then gives up, and all walks are one function
            options["isolate_recompiles"] = True
        super().__init__(walk, torch.compile(_of_tensors(walk), **(options | how)), check)

    def __call__(self, x: Tree, cond: Any = None, seeds: Seeds = None) -> Any:
        """Where the walk ends."""
        from torch._dynamo.exc import Unsupported, UserError  # which takes seconds to import

        try:
            return super().__call__(x, cond, seeds)
        except (Unsupported, UserError) as error:
            who = f"a walk by {type(self.walk.solver).__name__}"
            raise InputError(f"{who} is no one graph: {str(error).splitlines()[0]}") from error


class Captured(Whole):
    """By a CUDA graph: recorded at the first call of a shape, and replayed with other starts, conditions and seeds. See
    `kedge.capture.Replay` for what is part of the recording; what hooks hold is, so write into a `Pin`'s values where
    they change. On a processor it is an error: to walk plainly there would hide that nothing is gained.

    Args:
        walk: one that asks for no values on the way: not an adaptive one, nor one that a hook records.
        check: whether an end that is not finite is an error, as in `Walk.run`. It waits for the GPU.
        recorder: what records.
        kept: recordings, one for each shape.
    """

    def __init__(
        self,
        walk: Walk,
        check: bool = True,
        recorder: Callable[[torch.device], Recorder] = CudaGraph,
        kept: int = 8,
    ) -> None:
        what = f"a walk by {type(walk.solver).__name__}"
        super().__init__(walk, Replay(_of_tensors(walk), what, recorder, kept), check)


def _of_tensors(walk: Walk) -> Callable[[Tree, Any, Tensor], Tree]:
    """The walk as a function of tensors alone."""
    keeping = [type(hook).__name__ for hook in walk.hooks if hook.place == "record"]
    if keeping:
        raise InputError(f"{keeping[0]} keeps what it sees of every walk, and a walk in one piece shows it one: run it")

    def walked(x: Tree, cond: Any, key: Tensor) -> Tree:
        return walk.run(x, cond, seeds=Noise(key)).x

    return walked
