"""`kedge export RUN`: a trained agent as files that run without kedge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kedge.run.commands.command import Command, Outcome, parsed, short
from kedge.run.commands.runs import planning, recipe_of


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Writes a run's plans, or a policy's chunks of actions, as a graph that other runtimes walk, noise in and plans or
    actions out, in the data's own units; and its denoiser alone, for walks of one's own. Beside each file, a JSON file
    says what goes in and what comes out. A file is run once it is written, and held to what the agent makes of the same
    noise.
    """

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN", help="The folder of the run.")
    ]
    what: Literal["plan", "denoiser", "all"] = "all"
    """The whole walk, the denoiser alone, or a file for each."""
    form: Annotated[Literal["onnx", "torch"], tyro.conf.arg(name="format")] = "onnx"
    """ONNX, for onnxruntime and others; or a program for torch.export.load."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Changes nothing here: noise is an input of what is exported."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Changes nothing here: files are written on the CPU, and run wherever their runtime does."""

    def run(self) -> Outcome:
        """Loads, writes, tries."""
        self.place()
        told = recipe_of(self.folder)
        from kedge.disk import read_json
        from kedge.policy import ChunkPolicy
        from kedge.run.export import export
        from kedge.run.notes import unfinished
        from kedge.train.progress import announce

        if note := unfinished(self.folder, told):
            announce(note)
        agent = planning(self.folder, None, "kedge export", also=ChunkPolicy)
        out = self.out or self.folder / "export"
        lines, files = list[str](), list[dict[str, object]]()
        for alone in {"plan": (False,), "denoiser": (True,), "all": (False, True)}[self.what]:
            path = export(agent, out, alone=alone, form=self.form, recipe=told)
            off = read_json(path.with_name(f"{path.name}.json"))["difference"]
            lines.append(f"exported: {short(path)}, off by at most {off:.1g} of the data's scale")
            files.append({"file": str(path), "about": f"{path}.json", "difference": off})
        return Outcome(lines, {"run": str(self.folder), "files": files})


def parse(args: Sequence[str]) -> Export:
    """The flags."""
    return parsed(Export, args, "export")
