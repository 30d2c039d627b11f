"""Exports small agents and prints how far each runtime is from the agent itself; in a process of its own, since checked
annotations cannot be traced. Arguments: a folder, `onnx` or `everywhere`, and kinds of nets, such as `unet` or
`unet-alone`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import kedge
from kedge.data import Normaliser
from kedge.policy import ChunkPolicy
from kedge.recipes.networks import Sizes, build
from kedge.run.export import difference, onnx_runner
from kedge.run.graphs import graph_of

STATES = Normaliser(torch.tensor([3.0, 5.0, 0.1, -0.1]), torch.tensor([2.0, 2.0, 1.5, 1.5]))
ACTIONS = Normaliser(torch.tensor([0.1, -0.2]), torch.tensor([0.5, 0.5]))


def grown(net: nn.Module) -> nn.Module:
    """No parameter is zero, as some are before training: what is exported is to be there."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


def planning(net: str, **fields: Any) -> Any:
    """An agent of the FV recipe, tiny."""
    small: dict[str, Any] = {"width": 16, "horizon": 8, "evaluations": 2, "atlas": 4, "depth": 1, "candidates": 3}
    recipe = kedge.recipes.FV(net=net, **small | fields)  # type: ignore[arg-type]
    torch.manual_seed(0)
    models = build(recipe, Sizes(4, 2), STATES, STATES, None)
    grown(models.planner)
    return recipe.agent(models)


def acting(solver: Any = None) -> ChunkPolicy:
    """A policy of actions on an MLP, its walk with a random step."""
    torch.manual_seed(0)
    net = grown(kedge.nets.MLP((3, 2), 16, 1, embed=8, cond={"observation": 4}))
    denoiser = kedge.Denoiser(net, kedge.paths.Trig(sigma_data=1.0), "trig")
    walk = kedge.Walk(denoiser, solver or kedge.solvers.DDPM(), kedge.grids.LogSNR(2))
    return ChunkPolicy(walk, (3, 2), STATES, ACTIONS, execute=2, limit=None)


def off(agent: Any, folder: Path, alone: bool, everywhere: bool) -> dict[str, float]:
    """How far each runtime is from the agent, on a batch of 6 and on one alone."""
    graph = graph_of(agent, alone)
    runners = {"eager": graph, "onnx": onnx_runner(kedge.export(agent, folder, alone=alone))}
    if everywhere:
        runners["torch"] = torch.export.load(kedge.export(agent, folder, alone=alone, form="torch")).module()
        runners["compiled"] = torch.compile(graph, fullgraph=True)
    return {name: max(difference(graph, run, batch) for batch in (6, 1)) for name, run in runners.items()}


def main() -> None:
    """As the docstring says; `everywhere` in place of `onnx` also takes torch's own program, and a compiled graph."""
    torch.set_num_threads(1)
    folder, where, *kinds = sys.argv[1:]
    found = {}
    for kind in kinds:
        name, _, part = kind.partition("-")
        agent = acting() if name == "mlp" else planning(name)
        found[kind] = off(agent, Path(folder) / name, part == "alone", where == "everywhere")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
