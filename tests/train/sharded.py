"""Runs that several processes train in shards, and the same in one: `python sharded.py WHAT FOLDER`, under torchrun's
variables.

Three parts, of which each could tell shards from the whole: denoising with a learned head that is not sharded, kernels
and rows that do not divide evenly, dropout and Muon; a critic that is judged against a target of its own, several times
a step; and a net whose gradient goes through the critic. Both processes answer in JSON.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kedge
from kedge.errors import InputError
from kedge.fit import DenoisingLoss, weightings
from kedge.train import AdamW, Batches, CrewError, Muon, Part, Shadow, Tick, Trainer, checkpoint
from kedge.train.shards import local

STEPS = 6


class Net(nn.Module):
    """A kernel of three channels out of two, 13 rows, and a last row alone."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.kernel = nn.Conv1d(2, 3, 3, padding=1)
        self.first, self.drop, self.last = nn.Linear(6, 13), nn.Dropout(p), nn.Linear(13, 3)
        self.shift = nn.Linear(13, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """The level is one more number."""
        h = self.kernel(torch.cat([x, told[:, None]], 1).reshape(-1, 2, 2)).flatten(1)
        h = self.drop(nn.functional.silu(self.first(h)))
        return (self.last(h) + self.shift(h)).view(-1, 3)  # a view, as many a network returns


class Look:
    """A sink that calls the networks: what a net answers, and its average."""

    def __init__(self, modules: list[nn.Module], dtype: torch.dtype) -> None:
        self.modules, self.x, self.seen = modules, torch.ones(2, 3, dtype=dtype), Path()

    def open(self, run: Path, step: int) -> None:
        """Lines go to `seen`."""
        self.seen = run / "seen"

    @torch.no_grad()
    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Called twice: what the first call gathered has to serve the second too."""
        answers = [float(module(self.x).sum()) for module in self.modules for _ in range(2)]
        with self.seen.open("a") as file:
            file.write(f"{step} {' '.join(repr(answer) for answer in answers)}\n")

    def close(self) -> None:
        """Nothing is open."""


def trainer(run: Path | None, steps: int = STEPS, p: float = 0.0, single: bool = False, **more: Any) -> Trainer:
    """In double precision with Muon, or in single precision with AdamW."""
    torch.manual_seed(5)
    dtype = torch.float32 if single else torch.float64
    path = kedge.paths.Trig(sigma_data=1.0)
    weighting = weightings.LearnedHead(features=16)
    fit = DenoisingLoss(kedge.Denoiser(Net(p), path, "trig"), weighting=weighting).to(dtype)
    critic = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
    climber = nn.Linear(3, 3).to(dtype)
    target = Shadow(0.9, warmup=False)

    def judged(batch: Tensor, tick: Tick) -> tuple[Tensor, dict[str, Tensor]]:
        z = tick.noise(len(batch)).normal(batch.shape, tick.step).to(batch)
        aim = batch[:, 0] ** 2 + 0.5 * target.module(batch)[:, 0]
        error = (critic(batch + 0.1 * z)[:, 0] - aim) ** 2
        return error / tick.whole(error)[0].mean(), {"largest": tick.whole(error)[0].max()}

    def climbed(batch: Tensor, tick: Tick) -> tuple[Tensor, dict[str, Tensor]]:
        found = critic(climber(batch).tanh())[:, 0]
        return -found, {"found": found.mean()}

    spec = AdamW(1e-2, warmup=3) if single else Muon(1e-2, warmup=3, convolutions=True)
    parts = [
        fit.part(spec, name="fit", shadows=(Shadow(0.9),), clip=0.5),
        Part(critic, judged, AdamW(1e-2), every=2, repeat=2, name="critic", shadows=(target,), shared=True),
        Part(climber, climbed, AdamW(1e-2), name="climber", shared=True),
    ]
    data = torch.sin(torch.arange(300, dtype=torch.float64) ** 1.5).reshape(100, 3).to(dtype)
    looks = [] if run is None else [Look([critic, target.module], dtype)]
    options: dict[str, Any] = {"checkpoint_every": 2, "checkpoint_seconds": None, "sinks": looks} | more
    return Trainer(parts, Batches(data, 12, seed=2), steps, run, log_every=1, progress=False, **options)


def held(run: Trainer) -> dict[str, int]:
    """Bytes in this process: of parameters, of what optimisers remember of them, of shadows."""
    parameters = [p for updater in run.updaters for p in updater.part.module.parameters()]
    memory = [
        value
        for updater in run.updaters
        for its in updater.optimisers
        for p in its.state.values()
        for value in p.values()
    ]
    shadows = [p for part in run.parts for shadow in part.shadows for p in shadow.module.parameters()]
    tensors = {"parameters": parameters, "optimisers": memory, "shadows": shadows}
    return {name: sum(local(t).numel() * t.element_size() for t in some if t.ndim) for name, some in tensors.items()}


def refused() -> dict[str, str]:
    """What cannot be sharded, and how that is said."""
    first = os.environ["RANK"] == "0"
    scalar = nn.Module()
    scalar.register_parameter("gain", nn.Parameter(torch.ones(())))
    read = nn.Linear(3, 1)
    differs = nn.Linear(3, 1)
    differs.weight.data.fill_(float(first))
    found: dict[str, str] = {}
    cases: tuple[tuple[str, nn.Module, dict[str, Any]], ...] = (
        ("scalar", scalar, {}),
        ("read", read, {}),
        ("differs", differs, {}),
        ("compiled", nn.Linear(3, 1), {"compile": True}),
    )
    for name, module, more in cases:
        part = Part(module, lambda x, tick: ((x @ read.weight.T)[:, 0], {}), AdamW(), name="a", shared=True)
        try:
            Trainer([part], Batches(torch.ones(8, 3), 4), 1, progress=False, shard=True, **more).train()
        except (InputError, CrewError) as error:
            found[name] = str(error)
    return found


def full_disk(folder: Path) -> list[str]:
    """The second process cannot write its second checkpoint: the warnings of a run that goes on without."""
    seal, calls = checkpoint._seal, [0]

    def sealed(path: Path) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 2 and os.environ["RANK"] == "1":
            raise OSError("no space left")
        return seal(path)

    checkpoint._seal = sealed
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", checkpoint.CheckpointWarning)
        trainer(folder, 4, shard=True).train()
    checkpoint._seal = seal
    return [str(one.message) for one in said]


def killed(folder: Path) -> None:
    """The second process ends when its piece of the second checkpoint is written, and nobody has said so."""
    seal, calls = checkpoint._seal, [0]

    def sealed(path: Path) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 2 and os.environ["RANK"] == "1":
            os._exit(9)
        return seal(path)

    checkpoint._seal = sealed
    trainer(folder, STEPS, shard=True).train()


def main(folder: Path) -> None:
    """One thing after another, and the end of one process last."""
    run = trainer(folder / "plain", accumulate=2, shard=True)
    run.train()
    found: dict[str, Any] = {"held": held(run), "moved": float(run.weights()["fit.denoiser.net.last.bias"].sum())}
    trainer(folder / "single", 4, single=True, shard=True).train()
    trainer(folder / "whole", 4, p=0.3, shard=True).train()
    trainer(folder / "broken", 3, p=0.3, shard=True).train()
    trainer(folder / "broken", 4, p=0.3, shard=True).train()
    trainer(folder / "mixed", 3).train()  # one process has begun it
    trainer(folder / "mixed", 5, shard=True).train()
    found |= {"refused": refused(), "warned": full_disk(folder / "full")}
    print(json.dumps(found), flush=True)
    try:
        killed(folder / "killed")
    except CrewError as error:
        sys.exit(f"kedge: {error}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, where = sys.argv[1], Path(sys.argv[2])
    if what == "all":
        main(where)
    else:
        trainer(where, int(what), p=0.0, shard=True).train()
