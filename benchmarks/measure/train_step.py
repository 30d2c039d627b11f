"""What the trainer costs over the step written out by hand, measured side by side."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kedge.train import AdamW, Batch, Batches, Info, Part, Shadow, Tick, Trainer

SAMPLES, INPUTS = 4096, 32
SPEC = AdamW(lr=1e-4, warmup=0)


def network(width: int = 384, depth: int = 4) -> nn.Module:
    """A perceptron of some half a million parameters."""
    sizes = [INPUTS, *[width] * depth]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, INPUTS))


def data() -> dict[str, Tensor]:
    """A regression."""
    x = torch.randn(SAMPLES, INPUTS)
    return {"x": x, "y": x.roll(1, 1).sin()}


def by_hand(model: nn.Module, table: dict[str, Tensor], batch: int, average: bool) -> Callable[[], None]:
    """The bare step: the same optimiser, loss and shuffling, and nothing else but the average if it is wanted."""
    (optimiser,) = SPEC.build(model)
    copies = [p.detach().clone() for p in model.parameters()]
    state = {"place": SAMPLES, "order": torch.empty(0)}

    def step() -> None:
        if state["place"] + batch > SAMPLES:
            state["place"], state["order"] = 0, torch.randperm(SAMPLES)
        index = state["order"][state["place"] : state["place"] + batch]
        state["place"] += batch
        x, y = table["x"].index_select(0, index), table["y"].index_select(0, index)
        optimiser.zero_grad(set_to_none=True)
        ((model(x) - y) ** 2).mean().backward()
        optimiser.step()
        if average:
            with torch.no_grad():
                torch._foreach_lerp_(copies, list(model.parameters()), 1e-3)  # pyright: ignore[reportPrivateImportUsage]

    return step


def by_trainer(model: nn.Module, table: dict[str, Tensor], batch: int, average: bool) -> Callable[[], None]:
    """The trainer's step: with clipping, the watch for non-finite numbers, and a row of figures every 50 steps."""

    def loss(batch: Batch, tick: Tick) -> tuple[Tensor, Info]:
        return ((model(batch["x"]) - batch["y"]) ** 2).mean(), {}

    shadows = (Shadow(),) if average else ()
    return Trainer([Part(model, loss, SPEC, shadows=shadows)], Batches(table, batch), steps=10**9).advance


def step_overhead(batch: int = 64, rounds: int = 30, steps: int = 20) -> dict[str, float]:
    """Microseconds a step by hand and by the trainer, and the median ratio over `rounds`, without and with an average.

    The four take turns, `steps` at a time, so that a busy machine burdens all alike.
    """
    torch.manual_seed(0)
    table = data()
    makers = {"bare": by_hand, "trainer": by_trainer}
    runs = {
        f"{name}{'_average' if average else ''}": make(network(), table, batch, average)
        for average in (False, True)
        for name, make in makers.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, step in runs.items():
            begun = time.perf_counter()
            for _ in range(steps):
                step()
            times[name].append((time.perf_counter() - begun) / steps * 1e6)
    # The first round warms up.
    figures = {f"{name}_us": statistics.median(values[1:]) for name, values in times.items()}
    for name in ("", "_average"):
        pairs = zip(times["trainer" + name][1:], times["bare" + name][1:], strict=True)
        figures["ratio" + name] = statistics.median(a / b for a, b in pairs)
    figures["parameters"] = float(sum(p.numel() for p in network().parameters()))
    return figures
