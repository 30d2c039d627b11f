"""A function of tensors as one CUDA graph: recorded once, replayed with other numbers.

A replay launches all that a function does in one go, where Python and the driver else take their time between any two
kernels: at small batches that is most of what a walk takes on a GPU. A recording holds what was launched, and nothing
of what the host thought meanwhile, so nothing may be asked of a tensor's values on the way.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kedge.errors import InputError

WARM_UP = 2
"""Runs before one is recorded: libraries choose their kernels, and allocate, the first time that they are called."""

_UNSEEN = ContextVar("unseen", default=False)
_ASKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_INDEXED = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
_MOVED = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
_PASSED = __name__, "torch", "jaxtyping", "beartype"
"""Modules that ask on behalf of others."""


def unseen() -> bool:
    """Whether values are not to be looked at: in a compiler's graph, and while one is recorded."""
    return torch.compiler.is_compiling() or _UNSEEN.get()


@contextmanager
def _not_seen() -> Iterator[None]:
    was = _UNSEEN.set(True)
    try:
        yield
    finally:
        _UNSEEN.reset(was)


@runtime_checkable
class Recorder(Protocol):
    """What records the work of a call, and does it again."""

    def record(self, call: Callable[[], Any]) -> Any:
        """What the call returns, whose tensors each replay writes anew."""
        ...

    def replay(self) -> None:
        """The same work, on the tensors that it was recorded with."""
        ...


class CudaGraph:
    """A `torch.cuda.CUDAGraph` of a device."""

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise InputError(
                f"CUDA graphs are of a GPU, and this lies on {device}: move network and inputs to one, or take "
                "kedge.walk.Compiled"
            )
        self.device, self.graph = device, torch.cuda.CUDAGraph()

    def record(self, call: Callable[[], Any]) -> Any:
        """On a stream of its own, as recordings must be; after some runs that are not recorded."""
        with torch.cuda.device(self.device):
            aside, own = torch.cuda.Stream(), torch.cuda.current_stream()
            aside.wait_stream(own)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    call()
            own.wait_stream(aside)
            try:
                # of this thread: what others do with the GPU meanwhile is not recorded, and no error
                with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                    return call()
            except RuntimeError as error:
                raise InputError(f"a CUDA graph could not hold this: {str(error).splitlines()[0]}") from error

    def replay(self) -> None:
        """All at once."""
        self.graph.replay()


class Watched(TorchDispatchMode):
    """Refuses what no recording on a device can hold: asking for values there, and copies from elsewhere."""

    def __init__(self, device: torch.device, what: str) -> None:
        super().__init__()
        self.device, self.what = device, what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Lets pass what asks for nothing."""
        kwargs = kwargs or {}
        if self._asks(func, args, kwargs):
            self._refuse("asks for the values of a tensor", func)
        if func.overloadpacket in _MOVED and self._comes_from_elsewhere(args, kwargs):
            self._refuse("copies from one device to another", func)
        return func(*args, **kwargs)

    def _asks(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        if func.overloadpacket in _INDEXED:  # by numbers it asks for none, by truth values for where they hold
            return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        return bool(_ASKS & set(func.tags)) and any(self._is_here(leaf) for leaf in _pytree.tree_leaves((args, kwargs)))

    def _comes_from_elsewhere(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        ends = [value.device for value in args[:2] if isinstance(value, Tensor)]
        if kwargs.get("device") is not None:
            ends.append(torch.device(kwargs["device"]))
        return self.device in ends and len(set(ends)) > 1

    def _is_here(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.device == self.device

    def _refuse(self, does: str, func: Any) -> None:
        frame = sys._getframe()
        while frame.f_back is not None and _asks_for_others(frame):
            frame = frame.f_back
        where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        raise InputError(f"{self.what} has no CUDA graph: {frame.f_code.co_name} ({where}) {does} ({func})")


def _asks_for_others(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    return module in _PASSED or module.partition(".")[0] in _PASSED or frame.f_code.co_filename.startswith("<")


class _Recorded(NamedTuple):
    """A recording, and the tensors that it reads and writes."""

    recorder: Recorder
    inputs: list[Tensor]
    output: Any

    def again(self, inputs: Sequence[Tensor]) -> Any:
        """On other numbers. What comes out is copied, for the next replay writes there."""
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        self.recorder.replay()
        return _pytree.tree_map_only(Tensor, torch.clone, self.output)


class Replay:
    """`function(*inputs)`, recorded as a CUDA graph when inputs of these shapes come for the first time, and replayed.

    Inputs and output are trees: tensors, or tuples, lists and dictionaries of them, or a `Cond`. Tensors of the inputs
    are copied into those that the recording reads; other values are part of it. What the function finds elsewhere, such
    as weights, is read where it lay: write into it, do not replace it. Python runs once: what it notes down is noted
    once. There are no gradients.

    Args:
        function: of tensors on one GPU. It leaves its inputs as they are.
        what: it is called in messages.
        recorder: what records.
        kept: recordings, each with its own memory; of more, those that were used longest ago are dropped.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        what: str = "this function",
        recorder: Callable[[torch.device], Recorder] = CudaGraph,
        kept: int = 8,
    ) -> None:
        self.function, self.what, self.recorder, self.kept = function, what, recorder, kept
        self._recorded: OrderedDict[Any, _Recorded] = OrderedDict()

    def __call__(self, *inputs: Any) -> Any:
        """What the function makes of them."""
        leaves, form = _pytree.tree_flatten(inputs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        key = form, *((leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        with torch.inference_mode(False), torch.no_grad():
            if key not in self._recorded:
                self._recorded[key] = self._record(leaves, form, self._device(tensors))
                if len(self._recorded) > self.kept:
                    self._recorded.popitem(last=False)
            self._recorded.move_to_end(key)
            return self._recorded[key].again(tensors)

    def _device(self, tensors: Sequence[Tensor]) -> torch.device:
        devices = sorted({str(tensor.device) for tensor in tensors})
        if len(devices) != 1:
            raise InputError(f"{self.what}: inputs lie on {' and '.join(devices) or 'no device'}, and belong on one")
        return torch.device(devices[0])

    def _record(self, leaves: Sequence[Any], form: Any, device: torch.device) -> _Recorded:
        recorder = self.recorder(device)
        own = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        inputs = _pytree.tree_unflatten(own, form)
        with _not_seen():
            with Watched(device, self.what):
                self.function(*inputs)
            output = recorder.record(lambda: self.function(*inputs))
        return _Recorded(recorder, [leaf for leaf in own if isinstance(leaf, Tensor)], output)
