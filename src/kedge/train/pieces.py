"""The tensors of a sharded run on the disk: a file of safetensors for each process, with the rows that it holds.

torch.distributed.checkpoint plans who writes what, and who reads which rows of which file: the processes that read need
not be as many as those that wrote. Tensors that all processes hold alike are written once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from kedge.train.crew import Crew, together
from kedge.train.shards import Layout, empty_like


def write_pieces(folder: Path, tensors: Mapping[str, Tensor], crew: Crew) -> list[Path]:
    """Writes the pieces of all processes, which come here together, and returns those of this one. Where one fails, all
    raise the same.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        together(save, dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        failures = [f"process {rank}: {failure[0]}" for rank, failure in error.failures.items()]
        raise OSError("; ".join(failures)) from None
    return sorted(folder.glob(f"shard-{crew.rank + 1:05d}-*.safetensors"))


def read_pieces(folder: Path, layout: Layout | None = None) -> dict[str, Tensor]:
    """Reads the tensors back: whole on the CPU, or of each that `layout` knows only this process's rows. A process
    reads by itself.
    """
    reader = HuggingFaceStorageReader(str(folder))
    room: dict[str, Tensor] = {}
    for name, saved in reader.read_metadata().state_dict_metadata.items():
        like = None if layout is None else layout(name, saved.size)  # pyright: ignore[reportAttributeAccessIssue]
        room[name] = empty_like(saved.size, saved.properties.dtype, like)  # pyright: ignore[reportAttributeAccessIssue]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it is meant: see above
        load(room, storage_reader=reader, no_dist=True)
    return room
