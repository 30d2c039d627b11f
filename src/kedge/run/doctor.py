"""Whether this machine is fit: what is installed, what it runs on, and whether a little of everything works."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from kedge.extras import command

State = Literal["ok", "note", "bad"]
"""As it should be; worth knowing, perhaps with something to do about it; and what keeps kedge from working."""

FREE_GIGABYTES = 2.0
"""Less room than this does not hold demonstrations and a few runs."""
OURS = ("dev", "docs", "bench")
"""Extras of those who work on kedge itself."""
GL = ("egl", "osmesa", "glfw")
LOOK = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='.1'/></worldbody></mujoco>")
with mujoco.Renderer(model, 16, 16) as renderer:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer.update_scene(data)
    assert renderer.render().shape == (16, 16, 3)
"""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do where something is amiss."""

    name: str
    state: State
    what: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """As it is printed."""
        return f"{self.state:<5}{self.name:<12}{self.what}" + (f"; {self.remedy}" if self.remedy else "")

    def json(self) -> dict[str, str]:
        """The same as data."""
        return asdict(self)


def examined() -> list[Finding]:
    """All of it. What fails in an unforeseen way is a finding too."""
    looked: dict[str, Callable[[], list[Finding]]] = {
        "versions": packages,
        "device": devices,
        "extras": extras,
        "rendering": rendering,
        "threads": threads,
        "disk": disk,
        "walk": lambda: [timed("walk", walks)],
        "training": lambda: [timed("training", trains)],
        "simulator": lambda: [timed("simulator", simulates)],
        "checkpoint": lambda: [timed("checkpoint", keeps)],
    }
    return [finding for name, look in looked.items() for finding in guarded(name, look)]


def guarded(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a look finds, its own failure included."""
    try:
        return look()
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        return [
            Finding(
                name, "bad", f"{type(error).__name__}: {said}", f"reinstall: {sys.executable} -m pip install -U kedge"
            )
        ]


# What is installed


def required(extra: str = "") -> Iterator[Any]:
    """What kedge asks for: by itself, or for an extra."""
    from packaging.requirements import Requirement

    for text in requires("kedge") or []:
        wanted = Requirement(text)
        bare = wanted.marker is None
        if bare != bool(extra) and (bare or wanted.marker.evaluate({"extra": extra})):  # type: ignore[union-attr]
            yield wanted


def missing(wanted: Any) -> str | None:
    """How a requirement is not met: it is absent, or too old."""
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is not installed"
    return (
        None
        if wanted.specifier.contains(found, prereleases=True)
        else f"{wanted.name} is {found}, not {wanted.specifier}"
    )


def packages() -> list[Finding]:
    """Python, kedge and what it stands on."""
    base = list(required())
    found = ", ".join(f"{wanted.name} {version(wanted.name)}" for wanted in base if not missing(wanted))
    amiss = [
        Finding("versions", "bad", said, f"pip install '{wanted.name}{wanted.specifier}'")
        for wanted in base
        if (said := missing(wanted))
    ]
    what = f"Python {platform.python_version()}, kedge {version('kedge')}; {found}"
    return [Finding("versions", "ok", what), *amiss]


def extras() -> list[Finding]:
    """Which are there, and the command that adds the others."""
    names = sorted({found for text in requires("kedge") or [] for found in re.findall(r"extra == ['\"]([\w-]+)", text)})
    state = {name: not any(missing(wanted) for wanted in required(name)) for name in names if name not in OURS}
    there = [name for name, whole in state.items() if whole]
    absent = [name for name, whole in state.items() if not whole]
    lines = [Finding("extras", "ok", f"installed: {', '.join(there) or 'none'}")]
    if absent:
        remedy = f"what you need of them, by {command(absent)}"
        lines.append(Finding("extras", "note", f"not installed: {', '.join(absent)}", remedy))
    return lines


# What it runs on


def devices() -> list[Finding]:
    """The processor, and GPUs where there are any."""
    import torch

    from kedge.run.provenance import machine

    found = machine()
    lines = [Finding("device", "ok", f"cpu: {found['cpu']}, {found['cores']} cores")]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        torch.ones(8, device=f"cuda:{index}").sum().item()
        about = torch.cuda.get_device_properties(index)
        lines.append(Finding("device", "ok", f"cuda:{index}: {about.name}, {about.total_memory / 2**30:.0f} GiB"))
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}, and finds none" if built else "torch is built for the CPU alone"
        lines.append(Finding("device", "note", f"a GPU may be here, but {why}", "see pytorch.org/get-started"))
    return lines


def rendering() -> list[Finding]:
    """Whether MuJoCo draws without a display. Mazes are drawn without it; other environments are not."""
    chosen = os.environ.get("MUJOCO_GL", "")
    if drawn(chosen):
        return [Finding("rendering", "ok", f"MuJoCo draws without a display (MUJOCO_GL={chosen or 'unset'})")]
    others = [name for name in GL if name != chosen]
    works = next((name for name in others if drawn(name)), None)
    what = f"MuJoCo draws nothing with MUJOCO_GL={chosen or 'unset'}; mazes do not need it"
    if works:
        return [Finding("rendering", "note", what, f"export MUJOCO_GL={works}")]
    return [
        Finding(
            "rendering", "note", what, "apt-get install libegl1 (or libosmesa6), then export MUJOCO_GL=egl (osmesa)"
        )
    ]


def drawn(backend: str) -> bool:
    """In a process of its own, for a broken driver ends the one that asks it."""
    told = (
        {**os.environ, "MUJOCO_GL": backend} if backend else {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    )
    try:
        done = subprocess.run([sys.executable, "-c", LOOK], env=told, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def threads() -> list[Finding]:
    """How many cores are ours, and whether they are free."""
    import torch

    from kedge.run.abreast import cores

    told = os.environ.get("OMP_NUM_THREADS", "unset")
    what = f"{cores()} cores for this process, OMP_NUM_THREADS {told}, torch {torch.get_num_threads()}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cores() + 0.5:
        return [
            Finding("threads", "note", f"{what}; load {load:.1f}", "others compute here: nothing timed now means much")
        ]
    return [Finding("threads", "ok", what)]


def disk() -> list[Finding]:
    """Where runs and demonstrations go."""
    from kedge.envs.demonstrations import cache_folder

    return [place("runs", Path.cwd(), "cd to another folder"), place("cache", cache_folder(), "set KEDGE_CACHE")]


def place(name: str, folder: Path, remedy: str) -> Finding:
    """Whether a folder can be written to, and how much room there is."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Finding("disk", "bad", f"{name}: {folder} cannot be written to", remedy)
    free = shutil.disk_usage(there).free / 1e9
    what = f"{name}: {folder}, {free:.1f} GB free"
    return (
        Finding("disk", "ok", what)
        if free >= FREE_GIGABYTES
        else Finding("disk", "note", what, f"make room, or {remedy}")
    )


# Whether it works


def timed(name: str, test: Callable[[], str]) -> Finding:
    """A test: what it found, or how it failed."""
    begun = time.perf_counter()
    try:
        what = test()
    except AmissError as error:
        remedy = "the versions above may not belong together: install kedge anew, in an environment of its own"
        return Finding(name, "bad", str(error), remedy)
    return Finding(name, "ok", f"{what} ({time.perf_counter() - begun:.1f} s)")


class AmissError(RuntimeError):
    """Something ran, and came to what it should not."""


def sure(as_it_should: bool, amiss: str) -> None:
    """Raises where something is not as it should be."""
    if not as_it_should:
        raise AmissError(amiss)


def walks() -> str:
    """A walk with an exact denoiser has the mean and the covariance of what it denoises to."""
    import torch

    import kedge

    mixture = kedge.exact.GaussianMixture([0.3, 0.7], torch.tensor([[-0.5, 0.0], [0.5, 0.2]]), [0.04, 0.09])
    path, count = kedge.paths.Trig(sigma_data=0.5), 4000
    start = path.prior((count, 2), 0, torch.float64)
    x = kedge.sample(mixture.denoiser(path), start, grid=kedge.grids.LogSNR(30), seeds=0)
    spread = mixture.covariance.diagonal().sqrt()
    off = float(((x.mean(0) - mixture.mean).abs() / spread).max())
    wide = float((x.T.cov() - mixture.covariance).abs().max() / spread.max() ** 2)
    sure(off < 0.08, f"the mean of a walk is off by {off:.2f} deviations")
    sure(wide < 0.1, f"the covariance of a walk is off by {wide:.0%}")
    return f"{count} samples of a mixture, mean off by {off:.3f} deviations, covariance by {wide:.1%}"


def trains() -> str:
    """A step of training moves the weights, to finite ones."""
    import torch

    import kedge
    from kedge.train import AdamW, Batches, Trainer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = kedge.nets.MLP(2, width=16, expansion=2)
        loss = kedge.fit.DenoisingLoss(kedge.Denoiser(net, kedge.paths.Trig(sigma_data=0.5), "trig"))
        before = [p.detach().clone() for p in net.parameters()]
        trainer = Trainer([loss.part(AdamW(1e-2, warmup=0))], Batches(torch.randn(64, 2), 32), 1, progress=False)
        trainer.train()
    sure(any(not torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)), "a step moved no weight")
    sure(all(bool(p.isfinite().all()) for p in net.parameters()), "a step left weights that are not finite")
    return "a step of training"


def simulates() -> str:
    """Mazes are stepped, and an episode follows from its seed."""
    import numpy as np

    import kedge

    def ends() -> Any:
        simulator = kedge.envs.Maze2D("umaze").simulator(2)
        simulator.reset([0, 1])
        return [simulator.step(np.full((2, 2), 0.5))[0] for _ in range(5)][-1]

    one, two = ends(), ends()
    sure(bool(np.isfinite(one).all()), "a maze was stepped to states that are not finite")
    sure(np.array_equal(one, two), "the same steps from the same seeds end elsewhere")
    return "5 steps in 2 mazes"


def keeps() -> str:
    """A checkpoint comes back as it was written."""
    import torch

    from kedge.train import load_tree, save_tree

    tree = {"step": 3, "weights": [torch.arange(1000).float().sin(), torch.ones(2, dtype=torch.bool)]}
    with tempfile.TemporaryDirectory() as folder:
        save_tree(Path(folder) / "state", tree)
        again = load_tree(Path(folder) / "state")
    whole = all(torch.equal(a, b) for a, b in zip(tree["weights"], again["weights"], strict=True))
    sure(whole and again["step"] == 3, "a checkpoint came back otherwise than it was written")
    return "a checkpoint there and back"


def fit(findings: Sequence[Finding]) -> bool:
    """Whether nothing keeps kedge from working."""
    return all(finding.state != "bad" for finding in findings)
