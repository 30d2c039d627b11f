"""A trained agent as a file that other runtimes walk: ONNX, or a program of `torch.export`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from kedge.errors import InputError
from kedge.extras import optional
from kedge.plan import Agent
from kedge.policy import ChunkPolicy
from kedge.run.graphs import Graph, graph_of
from kedge.run.provenance import PACKAGES, provenance
from kedge.train.checkpoint import save_json

Form = Literal["onnx", "torch"]
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 18
"""Of ONNX: every runtime of the last years knows it."""
PROBED, PROBE_SEED = 5, 31
"""How many samples a file is tried on once it is written, and their seed; another number than it was traced with."""
TRACED = 3
LIMIT = 1e-3
"""A file whose output is off by more than this, as a share of the data's scale, is not what was trained."""


def export(
    agent: Agent | ChunkPolicy,
    folder: Path | str,
    *,
    alone: bool = False,
    form: str = "onnx",
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the whole walk of an agent into `folder`, as one file, and beside it a JSON file that says what goes in
    and what comes out. States go in and plans come out in the data's own units. Noise is an input.

    Once written, the file is run, and held to what the agent makes of the same noise.

    Args:
        agent: a planner's, or a policy of actions.
        folder: is made if need be.
        alone: the denoiser alone, for walks of one's own, in place of the walk.
        form: `"onnx"`, for `onnxruntime` and others; or `"torch"`, a program for `torch.export.load`.
        recipe: what the JSON file is to say of how it was trained.
    """
    if form not in get_args(Form):
        raise InputError(f"export: form is one of {', '.join(get_args(Form))}, not {form!r}")
    if form == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            optional(module, "export", "by which graphs are written and run")
    graph = graph_of(agent, alone).cpu()
    path = Path(folder) / f"{graph.kind}{ENDINGS[form]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    program = traced(graph)
    if form == "onnx":
        write_onnx(graph, program, path)
        off = difference(graph, onnx_runner(path))
    else:
        torch.export.save(program, path)
        off = difference(graph, torch.export.load(path).module())
    if not off <= LIMIT:
        path.unlink()
        raise RuntimeError(f"{path.name}: what was exported is off by {off:.2g} of the data's scale; it was removed")
    save_json(path.with_name(f"{path.name}.json"), described(graph, path, form, off, recipe))
    return path


def traced(graph: Graph) -> torch.export.ExportedProgram:
    """The graph with any number of samples."""
    example = graph.example(TRACED)
    batch = torch.export.Dim.AUTO
    with torch.no_grad(), _quietly():
        return torch.export.export(graph, example, dynamic_shapes=tuple({0: batch} for _ in example), strict=False)


def write_onnx(graph: Graph, program: torch.export.ExportedProgram, path: Path) -> None:
    """One file, weights included."""
    with _quietly():
        torch.onnx.export(
            program,
            f=str(path),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[port.name for port in graph.inputs],
            output_names=[graph.output.name],
            verbose=False,
        )


def onnx_runner(path: Path, threads: int = 1) -> Callable[..., Tensor]:
    """The file as a function of tensors, by onnxruntime on the CPU."""
    runtime: Any = optional("onnxruntime", "export", "which runs it")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, given)[0]))

    return run


def difference(graph: Graph, runner: Callable[..., Tensor], batch: int = PROBED, seed: int = PROBE_SEED) -> float:
    """The largest difference to what the agent itself makes of the same inputs, as a share of the data's scale."""
    inputs, seeds = graph.example(batch, seed), torch.arange(batch) + seed
    with torch.no_grad():
        off = (runner(*inputs) - graph.truth(*inputs, seeds=seeds)).abs() / graph.scale()
    return float(off.max())


def described(graph: Graph, path: Path, form: str, off: float, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """What stands beside a file."""
    versions = (*PACKAGES, "onnx", "onnxscript", "onnxruntime") if form == "onnx" else PACKAGES
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "form": f"ONNX, opset {OPSET}" if form == "onnx" else "torch.export",
        "graph": graph.kind,
        "inputs": [port.json() for port in graph.inputs],
        "outputs": [graph.output.json()],
        **graph.words(),
        "difference": off,
        "recipe": dict(recipe or {}),
        "made": provenance(versions),
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter speaks of what concerns its authors: packages that it could use, its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
