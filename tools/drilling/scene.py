"""The small world that the drill takes place in: a maze, demonstrations, a run, an aligned run, data of every kind."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drilling.child import Ran, command

MAZE = "#####\n#OOO#\n#O#O#\n#OGO#\n#####\n"
TINY = (
    *("--steps", "12", "--batch", "4", "--width", "8", "--mults", "1", "--horizon", "8", "--atlas", "0"),
    *("--candidates", "2", "--goals", "0", "--critic", "none", "--evaluations", "2", "--net", "conv"),
)
FEW = ("--steps", "12", "--batch", "4", "--each", "2", "--evaluations", "2")
BOX = ("--reward", "keep-out", "--box", "0.5", "0.5", "2.5", "2.5")
MADE = ("--env", "ring.txt", "--demonstrations", "2500")
REWARD = "def calm(plans, cond):\n    return -plans[..., 2:].norm(dim=-1).amax(1)\n"

TRAIN = ("train", "fv", *MADE, *TINY)
EVAL = ("eval", "runs/fv", "--episodes", "2")
ALIGN = ("align", "vmpo", "runs/fv", *BOX, *FEW)


def often() -> None:
    """Called in a child: a run of a few steps keeps checkpoints and figures as often as a long one does."""
    from kedge.train import Trainer

    defaults = Trainer.__init__.__kwdefaults__
    assert defaults is not None
    defaults.update(checkpoint_every=3, log_every=2)


class SceneError(RuntimeError):
    """The world could not be made: nothing that is tried in it would mean anything."""


@dataclass(frozen=True)
class Scene:
    """Where it lies. Trials work on copies of it."""

    root: Path

    @classmethod
    def made(cls, root: Path) -> Scene:
        """Trains, evaluates, aligns, reports; a little of each kind of data."""
        root.mkdir(parents=True)
        (root / "home").mkdir()
        (root / "ring.txt").write_text(MAZE)
        (root / "mine.py").write_text(REWARD)
        for args in (
            (*TRAIN, "--out", "runs/fv"),
            (*EVAL, "--alone"),
            (*ALIGN, "--out", "runs/al"),
            ("eval", "runs/al", "--episodes", "2", "--alone"),
        ):
            done(command(args, root, before=often))
        half = root / "runs" / "half"
        shutil.copytree(root / "runs" / "fv", half)
        shutil.rmtree(half / "state" / "step-00000012")
        (half / "weights.safetensors").unlink()
        (root / "data").mkdir()
        np.savez(root / "data" / "plain.npz", **logged())
        return cls(root)

    def copied(self, place: Path, *names: str) -> Path:
        """Some of it, or all, in a trial's own folder."""
        place.mkdir(parents=True, exist_ok=True)
        for name in names or tuple(path.name for path in self.root.iterdir()):
            source, target = self.root / name, place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
        return place


def logged(steps: int = 240) -> dict[str, Any]:
    """Behaviour that can be learned from: two episodes of a point that goes in a circle, with rewards."""
    angle = np.arange(steps) / 20
    circle = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle) / 20, np.cos(angle) / 20], 1)
    return {
        "observations": circle.astype(np.float32),
        "actions": np.stack([-np.cos(angle), -np.sin(angle)], 1).astype(np.float32),
        "rewards": (np.arange(steps) % 30 > 25).astype(np.float32),
        "ends": np.array([steps // 2, steps]),
    }


def done(ran: Ran) -> Ran:
    """A command that has to succeed, has."""
    if ran.code != 0:
        raise SceneError(f"kedge {' '.join(ran.args)} ended with {ran.code}: {json.dumps(ran.err[-2000:])}")
    return ran
