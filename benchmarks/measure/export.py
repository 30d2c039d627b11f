"""A planner's walk in several runtimes, side by side."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kedge
from kedge.run.export import difference, onnx_runner
from kedge.run.graphs import Graph, graph_of

BATCHES = (1, 64)
"""Plans at once: one, and as many as a planner chooses from."""
PROBED = 64, 256
"""Samples that the difference is looked for in, for each of these."""


def exported(run: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """A row for each graph, batch and runtime: milliseconds (median, 5 and 95 % of turns), the median ratio to eager in
    the same turn, and the largest difference to the planner as a share of the data's scale, over `probed` samples.
    """
    torch.set_num_threads(1)
    agent, rows = kedge.load(run), list[dict[str, Any]]()
    told = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    load = os.getloadavg()[0]
    for alone in (False, True):
        graph = graph_of(agent, alone)
        runners: dict[str, Callable[..., Tensor]] = {
            "eager": graph,
            "compiled": compiled(graph),
            "onnxruntime": onnx_runner(kedge.export(agent, folder, alone=alone)),
        }
        with torch.no_grad():
            for batch, probed in zip(BATCHES, PROBED, strict=True):
                rows += timed(graph, runners, batch, rounds, probed)
    fields = {name: told["fields"][name] for name in ("net", "width", "horizon", "evaluations", "solver")}
    return {"recipe": told["recipe"], "fields": fields, "rounds": rounds, "load": load, "rows": rows}


def compiled(graph: Graph) -> Graph:
    """A copy whose network torch compiles, once a batch size; the steps around it stay as they are."""
    made: Any = deepcopy(graph)
    made.denoiser.net.compile(fullgraph=True, dynamic=False)
    return made


def timed(
    graph: Graph, runners: dict[str, Callable[..., Tensor]], batch: int, rounds: int, probed: int
) -> list[dict[str, Any]]:
    """The runtimes in turns."""
    inputs = graph.example(batch)
    for run in runners.values():
        for _ in range(5):  # compiles, and fills caches
            run(*inputs)
    turns = [{name: seconds(run, inputs) for name, run in runners.items()} for _ in range(rounds)]
    rows = []
    for name, run in runners.items():
        ms = [1000 * turn[name] for turn in turns]
        cuts = statistics.quantiles(ms, n=20)
        ratio = statistics.median(turn[name] / turn["eager"] for turn in turns)
        off = max(difference(graph, run, batch, seed) for seed in range(0, probed, batch))
        row = {"graph": graph.kind, "batch": batch, "runtime": name, "ms": statistics.median(ms), "ratio": ratio}
        rows.append(row | {"p5": cuts[0], "p95": cuts[-1], "probed": probed, "difference": off})
    return rows


def seconds(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    run(*inputs)
    return time.perf_counter() - begun
