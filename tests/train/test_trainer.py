"""The loop: what a step is, what is held back, what is refused, what a run leaves."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge.train import (
    AdamW,
    Batches,
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
    DivergenceError,
    Part,
    Schedule,
    Shadow,
    Tick,
    Trainer,
    load_weights,
)

SPEC = AdamW(lr=1e-2, warmup=0)


def table() -> dict[str, Tensor]:
    x = torch.linspace(-1, 1, 96).reshape(32, 3)
    return {"x": x, "y": x.flip(1).sin()}


def net() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))


def fitting(model: nn.Module, factor: Callable[[int], float] = lambda step: 1.0) -> Any:
    return lambda batch, tick: (factor(tick.step) * (model(batch["x"]) - batch["y"]).square().mean(1), {})


def trainer(run: Path | None = None, steps: int = 20, *, lr: float = 1e-2, **options: Any) -> Trainer:
    options.setdefault("log_every", 5)
    model = net()
    part = Part(model, fitting(model), AdamW(lr=lr, warmup=0))
    return Trainer([part], Batches(table(), 8), steps, run, **options)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_is_the_loop_written_by_hand() -> None:
    """Bit for bit: weights and moving average after 60 steps with warm-up, decay and clipping."""
    model, spec = net(), AdamW(lr=3e-2, warmup=10, decay="cosine", weight_decay=0.1)
    run = Trainer([Part(model, fitting(model), spec, clip=0.05)], Batches(table(), 8, seed=2), steps=60)
    run.train()

    hand = net()
    average = Shadow().follow(hand)
    schedule, source = Schedule(10, 0, "cosine"), Batches(table(), 8, seed=2)
    weights, biases = ([p for p in hand.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, fused=True)
    clipped = 0
    for step in range(60):
        batch = source.next(Tick(step, 0))
        optimiser.zero_grad()
        (hand(batch["x"]) - batch["y"]).square().mean(1).mean().backward()
        norm = float(torch.stack([p.grad.norm() for p in hand.parameters() if p.grad is not None]).norm())
        if norm > 0.05:
            clipped += 1
            for p in hand.parameters():
                assert p.grad is not None
                p.grad *= 0.05 / norm
        for group in optimiser.param_groups:
            group["lr"] = 3e-2 * schedule(step, 60)
        optimiser.step()
        average.update()
    assert 5 < clipped < 60
    assert run.row["clipped"] == clipped
    for found, wanted in zip(model.parameters(), hand.parameters(), strict=True):
        assert torch.equal(found, wanted)
    for found, wanted in zip(run.shadow().module.parameters(), average.module.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_an_update_without_finite_loss_and_gradient_never_happened(bad: str, tmp_path: Path) -> None:
    """Every third step is spoilt; what is left equals the run in which those steps do nothing at all."""

    def spoil(model: nn.Module, spoilt: bool) -> Any:
        def loss(batch: dict[str, Tensor], tick: Tick) -> tuple[Tensor, dict[str, Tensor | float]]:
            error = (model(batch["x"]) - batch["y"]).square().mean(1)
            if spoilt and tick.step % 3 == 1:
                first = next(model.parameters())
                error = error * math.nan if bad == "loss" else error + (first * 0).abs().sum().sqrt()
            return error, {}

        return loss

    model = net()
    run = Trainer([Part(model, spoil(model, True), SPEC)], Batches(table(), 8), 30, tmp_path / "run", log_every=10)
    run.train()
    clean = net()
    other = Trainer([Part(clean, spoil(clean, False), SPEC)], Batches(table(), 8), 30)
    for step in range(30):
        if step % 3 == 1:
            other.source.next(Tick(step, 0))
            other.step += 1
        else:
            other.advance()
    for found, wanted in zip(model.parameters(), clean.parameters(), strict=True):
        assert torch.equal(found, wanted)
    for found, wanted in zip(run.shadow().module.parameters(), other.shadow().module.parameters(), strict=True):
        assert torch.equal(found, wanted)
    assert [row["skipped"] for row in rows(tmp_path / "run")] == ["3", "7", "10"]
    assert all(math.isfinite(float(row["loss"])) for row in rows(tmp_path / "run"))


def test_too_many_skipped_updates_in_a_row_end_the_run_in_one_line(tmp_path: Path) -> None:
    model = net()
    loss = fitting(model, lambda step: math.nan if step >= 7 else 1.0)
    run = Trainer([Part(model, loss, SPEC, name="net")], Batches(table(), 8), 100, tmp_path, patience=5)
    with pytest.raises(DivergenceError, match=r"^net: 5 updates in a row .* the last at step 11 \(its loss\); [^\n]*$"):
        run.train()


def test_a_row_holds_means_over_its_steps_and_counts_from_the_start(tmp_path: Path) -> None:
    model = net()
    steps_seen: list[int] = []

    def loss(batch: dict[str, Tensor], tick: Tick) -> tuple[Tensor, dict[str, Tensor | float]]:
        steps_seen.append(tick.step)
        info: dict[str, Tensor | float] = {"step_mean": tick.step, "vector": torch.tensor([tick.step, 3.0 * tick.step])}
        return (model(batch["x"]) - batch["y"]).square().mean(1), info | ({"late": 1.5} if tick.step >= 7 else {})

    Trainer([Part(model, loss, SPEC)], Batches(table(), 8), 12, tmp_path, log_every=5).train()
    found = rows(tmp_path)
    assert [int(row["step"]) for row in found] == [5, 10, 12]
    assert [float(row["step_mean"]) for row in found] == [2.0, 7.0, 10.5]
    assert [float(row["vector"]) for row in found] == [4.0, 14.0, 21.0]
    assert [row["late"] for row in found] == ["", "1.5", "1.5"]
    assert {"seconds", "loss", "lr", "grad_norm", "clipped", "skipped"} <= found[0].keys()
    assert steps_seen == list(range(12))


def test_the_folder_holds_the_recipe_and_the_average(tmp_path: Path) -> None:
    run = trainer(tmp_path, recipe={"lr": 1e-2, "widths": (3, 8)})
    run.train()
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"lr": 1e-2, "widths": [3, 8]}
    saved = load_weights(tmp_path / "weights.safetensors")
    for name, value in run.shadow().module.state_dict().items():
        assert torch.equal(saved[name], value)
    assert not torch.equal(saved["0.weight"], run.parts[0].module.state_dict()["0.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.csv", "recipe.json", "state", "weights.safetensors",
    ]  # fmt: skip


def test_several_parts_are_told_apart_by_name(tmp_path: Path) -> None:
    a, b = net(), net()
    parts = [Part(a, fitting(a), SPEC, name="a"), Part(b, fitting(b), SPEC, name="b", shadows=())]
    Trainer(parts, Batches(table(), 8), 4, tmp_path, log_every=2).train()
    assert {"a/loss", "b/loss", "a/lr", "b/skipped"} <= rows(tmp_path)[0].keys()
    assert {"a.0.weight", "b.2.bias"} <= load_weights(tmp_path / "weights.safetensors").keys()


def test_a_run_can_be_prolonged_and_is_then_the_longer_run(tmp_path: Path) -> None:
    trainer(tmp_path / "a", 10).train()
    longer, whole = trainer(tmp_path / "a", 25), trainer(tmp_path / "b", 25)
    longer.train()
    whole.train()
    for found, wanted in zip(longer.parts[0].module.parameters(), whole.parts[0].module.parameters(), strict=True):
        assert torch.equal(found, wanted)
    assert longer.step == 25


def test_two_runs_of_one_seed_drop_out_alike() -> None:
    found = []
    for seed in (0, 0, 1):
        model = nn.Sequential(net(), nn.Dropout(0.5))
        run = Trainer([Part(model, fitting(model), SPEC)], Batches(table(), 8), 10, seed=seed)
        torch.rand(3)  # whatever was drawn before does not matter
        run.train()
        found.append(next(model.parameters()).detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_callers_generator_is_left_alone_and_a_thread_may_train() -> None:
    torch.manual_seed(8)
    before = torch.get_rng_state()
    run = trainer(None, 5)
    torch.set_rng_state(before)
    thread = threading.Thread(target=run.train)
    thread.start()
    thread.join()
    assert run.step == 5
    assert torch.equal(torch.get_rng_state(), before)


def test_another_recipe_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    trainer(tmp_path, recipe={"net": {"width": 8}, "data": "maze"}).train()
    with pytest.raises(
        CheckpointError, match=r"belongs to another recipe \(net.width: 8 there, 9 here; new: nothing there, 1"
    ):
        trainer(tmp_path, recipe={"net": {"width": 9}, "data": "maze", "new": 1}).train()
    same = {"net": {"width": 8}, "data": "maze"}
    with pytest.raises(
        CheckpointError, match=r"trained otherwise \(trainer.parts.part0.optimiser.lr: 0.01 there, 0.02 here\)"
    ):
        trainer(tmp_path, recipe=same, lr=2e-2).train()
    with pytest.raises(CheckpointError, match=r"trained otherwise \(trainer.seed: 0 there, 3 here\)"):
        trainer(tmp_path, recipe=same, seed=3).train()
    wider = nn.Linear(3, 3)
    with pytest.raises(
        CheckpointError, match=r"^part0: the checkpoint is of another Linear \(0.bias, 0.weight, 2.bias and"
    ):
        Trainer([Part(wider, fitting(wider), SPEC)], Batches(table(), 8), 30, tmp_path, recipe=same).train()


def test_a_full_disk_on_the_way_is_a_warning_and_at_the_end_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Checkpoints.save
    failing = {10, 20}

    def save(self: Checkpoints, step: int, tree: Any) -> None:
        if step in failing:
            raise CheckpointError(f"step {step} could not be written (No space left on device)")
        really(self, step, tree)

    monkeypatch.setattr(Checkpoints, "save", save)
    run = trainer(tmp_path, 20, checkpoint_every=5)
    with (
        pytest.warns(CheckpointWarning) as caught,
        pytest.raises(CheckpointError, match="step 20 could not be written"),
    ):
        run.train()
    said = [str(warning.message) for warning in caught]
    assert said[0] == "step 10 could not be written (No space left on device); going on without it"
    assert Checkpoints(tmp_path / "state").load()["step"] == 15


class Fickle:
    """A source that changes its mind at step 3."""

    def __init__(self, later: Any) -> None:
        self.later = later

    def next(self, tick: Tick) -> Any:
        batch = {name: leaf[:8] for name, leaf in table().items()}
        return self.later(batch) if tick.step >= 3 else batch

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        pass


def with_nan(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"x": batch["x"].clone().index_fill_(0, torch.tensor([1]), math.nan), "y": batch["y"]}


@pytest.mark.parametrize(
    ("later", "line"),
    [
        (with_nan, r"^source: the batch of step 3 cannot be used: 'x' holds 3 non-finite of 24 numbers$"),
        (
            lambda b: {k: v[:5] for k, v in b.items()},
            r"^source: 5 samples at step 3 after batches of 8: keep one size$",
        ),
        (lambda b: {"x": b["x"], "y": b["y"][:5]}, r"^source, step 3: all tensors must lead with the same number"),
    ],
)
def test_a_bad_batch_is_one_line(later: Any, line: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=line):
        Trainer([Part(model, fitting(model), SPEC)], Fickle(later), 10).train()


def test_a_batch_may_be_anything_the_loss_understands() -> None:
    model = net()

    class Pairs(Fickle):
        def next(self, tick: Tick) -> Any:
            return [("x", table()["x"]), tick.step]

    def loss(batch: Any, tick: Tick) -> tuple[Tensor, dict[str, Tensor | float]]:
        return model(batch[0][1]).square().mean(), {"step": batch[1]}

    Trainer([Part(model, loss, SPEC)], Pairs(None), 3).train()


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (
            lambda model: lambda b, t: 3.0,
            r"^part0: a loss returns \(tensor, dictionary of figures\), this one a float$",
        ),
        (lambda model: lambda b, t: (3.0, {}), r"this one a tuple of float, dict$"),
        (
            lambda model: lambda b, t: (model(b["x"]), {}),
            r"^part0: a loss is a scalar or \[8\], this one has shape \[8, 3\]$",
        ),
        (lambda model: lambda b, t: (model(b["x"])[:5, 0], {}), r"is a scalar or \[8\], this one has shape \[5\]$"),
        (lambda model: lambda b, t: (b["x"].sum(), {}), r"^part0: its loss depends on no trainable parameter$"),
        (lambda model: lambda b, t: (net()(b["x"]).sum(), {}), r"depends on none of the parameters of this part$"),
    ],
)
def test_a_bad_loss_is_one_line(loss: Any, line: str) -> None:
    model = net()
    with pytest.raises((TypeError, ValueError), match=line):
        Trainer([Part(model, loss(model), SPEC)], Batches(table(), 8), 3).train()


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Trainer: steps must be at least 1, got 0$"):
        trainer(None, 0)
    with pytest.raises(ValueError, match=r"^unknown precision 'fp8': choose fp32 or bf16$"):
        trainer(None, precision="fp8")
    with pytest.raises(ValueError, match=r"^a trainer needs at least one part$"):
        Trainer([], Batches(table(), 8), 3)
    with pytest.raises(TypeError, match=r"^recipe: only what JSON can hold"):
        trainer(None, recipe={"a": {1, 2}})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/run cannot be a run folder \(.*Not a directory"):
        trainer(tmp_path / "file" / "run").train()
    a, b = net(), net()
    with pytest.raises(ValueError, match=r"^parts need names that differ, got \['a', 'a'\]$"):
        Trainer([Part(a, fitting(a), SPEC, name="a"), Part(b, fitting(b), SPEC, name="a")], Batches(table(), 8), 3)
    with pytest.raises(ValueError, match=r"^part0 has no shadow"):
        Trainer([Part(a, fitting(a), SPEC, shadows=())], Batches(table(), 8), 3).shadow()


def test_bf16_is_used_inside_and_weights_stay_in_full_precision() -> None:
    model = net()
    seen: set[torch.dtype] = set()

    def loss(batch: dict[str, Tensor], tick: Tick) -> tuple[Tensor, dict[str, Tensor | float]]:
        out = model(batch["x"])
        seen.add(out.dtype)
        return (out.float() - batch["y"]).square().mean(1), {}

    run = Trainer([Part(model, loss, SPEC)], Batches(table(), 8), 150, precision="bf16", log_every=10)
    first: list[float] = []
    for _ in range(10):
        run.advance()
    first.append(run.row["loss"])
    run.train()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert run.row["loss"] < 0.3 * first[0]


COMPILED = """
import torch
from torch import nn
from kedge.train import AdamW, Batches, Part, Trainer

counts = []
def backend(graph, inputs):
    counts.append(len(list(graph.graph.nodes)))
    return graph.forward
x = torch.linspace(-1, 1, 96).reshape(32, 3)
torch._dynamo.register_backend(backend, name="counting")
found = []
for compiled in (False, BACKEND):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    loss = lambda batch, tick: ((model(batch) - batch.flip(1)).square().mean(1), {})
    trainer = Trainer([Part(model, loss, AdamW(1e-2))], Batches(x, 8), steps=30, compile=compiled)
    trainer.train()
    everything = [*model.parameters(), *trainer.shadow().module.parameters()]
    found.append(torch.cat([p.detach().flatten() for p in everything]))
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
print("graphs", len(counts))
"""


def compiled(backend: str) -> str:
    script = COMPILED.replace("BACKEND", repr(backend) if backend else "True")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compiled_modules_are_compiled_once_and_learn_the_same() -> None:
    assert compiled("counting") == "graphs 1\n"


@pytest.mark.slow
def test_the_default_compiler_learns_the_same() -> None:
    compiled("")
