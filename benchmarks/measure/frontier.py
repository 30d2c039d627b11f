"""Reward against divergence where both are known: small models of exact laws, moved toward exact tilts of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kedge import Walk, grids, solvers
from kedge.align import (
    VMPO,
    Anchored,
    Clamp,
    Extremes,
    Growing,
    Kept,
    Matching,
    Measured,
    Novel,
    OwnWalks,
    PolicyGradient,
    Relative,
    Standard,
    StepPairs,
    Varied,
)
from kedge.align.walks import Shared
from kedge.exact import Corrected, GaussianMixture, Quadratic
from kedge.paths import Trig
from kedge.train import AdamW, Trainer
from measure.chain import States
from measure.jobs import Job, Store
from measure.planning import Scale

MODES, RADIUS, STD = 4, 1.0, 0.15
PATH = Trig(sigma_data=0.73, scale_max=1000.0)
STEPS, BATCH, RATE = 16, 64, 5e-3
SEEDS, DRAWN = 3, 20_000
BETAS = (1.0, 0.5, 0.25)
"""A reward of one is worth so many nats, inverted."""
MOMENTS = (20, 50, 100, 200)
"""Steps at which methods without a temperature are looked at: they go on for as long as they run."""


class Scene(Protocol):
    """What a method is tried on: a model whose law is known, a reward, and how far what became of it is from the tilt
    `p e^{reward / beta}`.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        ...

    @property
    def steps(self) -> int:
        """Of a walk."""
        ...

    @property
    def asked(self) -> int:
        """How many estimates and samples of a walk there are to be rewarded."""
        ...

    @property
    def rate(self) -> float:
        """Of learning."""
        ...

    @property
    def drawing(self) -> dict[str, Any]:
        """How walks are drawn: what `OwnWalks` is told."""
        ...

    def reward(self, x: Any, cond: Any = None) -> Tensor:
        """Of clean samples, and of estimates."""
        ...

    def model(self, seed: int) -> nn.Module:
        """Exact, before it is moved."""
        ...

    def walk(self, model: nn.Module) -> Walk:
        """That samples it."""
        ...

    def flow(self, seed: int) -> nn.Module:
        """A log-potential of the states on the way, to be learned: `flow(x_t, t, cond) -> [B]`."""
        ...

    def law(self, walk: Walk, drawn: int) -> Any:
        """What the walk samples; where that has to be drawn, from so many."""
        ...

    def compared(self, after: Any, before: Any, beta: float | None) -> dict[str, Any]:
        """The reward, how far the law is from what it was and from the tilt of that, in nats, how far its mean is from
        the tilt's, and the effective share that weights toward the tilt would leave.
        """
        ...


@dataclass(frozen=True)
class Plane:
    """A mixture on the plane, a reward, and the tilt of a mixture of its kind: fitted to what is drawn."""

    known: GaussianMixture
    worth: Callable[[Tensor], Tensor]
    tilt: Callable[[GaussianMixture, float], GaussianMixture]
    shape: tuple[int, ...] = (2,)
    steps: int = STEPS
    asked: int = STEPS
    """The last step has no variance, so that one estimate is the sample."""
    rate: float = RATE
    drawing: dict[str, Any] = field(default_factory=dict)

    def reward(self, x: Any, cond: Any = None) -> Tensor:
        """As it was given."""
        return self.worth(x)

    def model(self, seed: int) -> Corrected:
        """The exact denoiser, and a network that begins at 0."""
        return Corrected(self.known, PATH, seed=seed)

    def walk(self, model: nn.Module) -> Walk:
        """Ancestral, from pure noise."""
        return Walk(model, solvers.DDPM(), grids.LogSNR(STEPS, 0.05, 50.0))

    def flow(self, seed: int) -> nn.Module:
        """A small network, of the kind that moves the denoiser."""
        return Heard(self.known.dim, seed)

    def law(self, walk: Walk, drawn: int) -> tuple[Tensor, GaussianMixture]:
        """Where walks end, and the mixture fitted to it."""
        x = ends(walk, drawn)
        return x, fitted(x, self.known)

    def compared(self, after: Any, before: Any, beta: float | None) -> dict[str, Any]:
        """By the mixtures; the share by the samples."""
        (x, law), (_, was) = after, before
        found = {"reward": float(self.worth(x).mean()), "from_before": divergence(law, was)}
        found |= {"shares": np.round(law.weights.numpy(), 5).tolist(), "from_tilt": None}
        if beta is None:
            return found
        target = self.tilt(was, beta)
        w = (target.log_prob(x) - law.log_prob(x)).softmax(0)
        off = float((law.mean - target.mean).norm())
        return found | {"from_tilt": divergence(law, target), "off": off, "ess": 1 / float((w**2).sum() * len(w))}


class Heard(nn.Module):
    """`f(x_t, t)` of one hidden layer, which begins at 0. It hears the state at about unit size, and the logarithm of
    the noise scale.
    """

    def __init__(self, dim: int, seed: int, width: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            first, last = nn.Linear(dim + 1, width), nn.Linear(width, 1)
        for zero in last.parameters():
            nn.init.zeros_(zero)
        self.net = nn.Sequential(first, nn.Tanh(), last)

    def forward(self, x: Tensor, t: float, cond: Any = None) -> Tensor:
        """`[B]`."""
        size = math.hypot(PATH.alpha(t), PATH.sigma(t))
        level = math.log(min(max(PATH.noise_scale(t), 1e-3), 1e3)) / 3
        return self.net(torch.cat([x / size, x.new_full((len(x), 1), level)], 1))[:, 0]


def modes() -> Plane:
    """Four modes, two on either side; one on the right is worth 1."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES) + math.pi / 4
    means = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)

    def right(x: Tensor) -> Tensor:
        return (x[:, 0] > 0).float()

    def tilt(law: GaussianMixture, beta: float) -> GaussianMixture:
        return GaussianMixture(law.weights * (right(law.means) / beta).exp(), law.means, law.covariances)

    return Plane(GaussianMixture([1 / MODES] * MODES, means, [STD**2] * MODES), right, tilt)


def one() -> Plane:
    """A Gaussian, and minus half the squared distance from a point beside its middle."""
    aim = Quadratic(torch.eye(2).double(), torch.tensor([1.0, 0.0]).double())

    def tilt(law: GaussianMixture, beta: float) -> GaussianMixture:
        return law.tilt(Quadratic(aim.A / beta, aim.b / beta))

    return Plane(GaussianMixture([1.0], torch.zeros(1, 2), [0.73**2]), lambda x: aim(x) - 0.5, tilt)


SCENES: dict[str, Callable[[], Scene]] = {"modes": modes, "one": one, "chain": States}


@dataclass(frozen=True)
class Method:
    """How a model is moved. `tilts`: whether it has a temperature, and with it an exact target. `paired`: whether walks
    come in pairs from one start, with rewards of estimates on the way; `shared`: how many of its first steps, by how
    many there are, are the same for a group. `measured`: the source keeps what its walks were denoised like. `flows`: a
    flow is learned along.
    """

    made: Callable[..., Any]
    each: int = 8
    plug: bool = False
    times: int = 1
    tilts: bool = True
    paired: bool = False
    shared: Callable[[int], Shared] | None = None
    measured: bool = False
    flows: bool = False

    def asked(self, scene: Scene) -> int:
        """How often a walk's reward is asked for."""
        return scene.asked if self.plug else 3 if self.paired else 1


def clipped(walk: Walk, penalty: float = 0.0, *, others: bool = False) -> PolicyGradient:
    """DDPO, or with each sample left out of its own mean and nothing divided."""
    pieces = (Relative(others=True),) if others else (Relative(), Standard(), Clamp())
    return PolicyGradient(walk, pieces, clip=0.2, penalty=penalty)


METHODS: dict[str, Method] = {
    "vmpo": Method(lambda walk, beta: VMPO(walk, beta)),
    "vmpo-group": Method(lambda walk, beta: VMPO(walk, beta, baseline="group")),
    "vmpo-log-z": Method(lambda walk, beta: VMPO(walk, beta, baseline="log-z"), each=1),
    "vmpo-pair": Method(lambda walk, beta: VMPO(walk, beta, baseline="pair"), each=2),
    "vmpo-flow": Method(
        lambda walk, beta, flow: VMPO(walk, beta, potential="difference", baseline="flow", flow=flow), flows=True
    ),
    "vmpo-to-go": Method(
        lambda walk, beta, flow: VMPO(walk, beta, potential="to-go", baseline="flow", flow=flow), flows=True
    ),
    "vmpo-plugged": Method(lambda walk, beta: VMPO(walk, beta, potential="difference", baseline="batch"), plug=True),
    "vmpo-replayed": Method(lambda walk, beta: VMPO(walk, beta), times=4),
    "ddpo": Method(lambda walk, _: clipped(walk), times=2, tilts=False),
    "loop": Method(lambda walk, _: clipped(walk, others=True), times=2, tilts=False),
    "dpok": Method(lambda walk, beta: clipped(walk, beta, others=True), times=2),
    "awm": Method(lambda walk, _: Matching(walk, draws=6, trust=1.0, penalty=1e-3), tilts=False),
    "sdpo": Method(lambda walk, _: StepPairs(walk), each=2, tilts=False, paired=True, shared=lambda _: 0),
    "fpo": Method(
        lambda walk, _: Matching(walk, clip=0.05, ratio="sample", draws=8, space="eps"),
        times=4, tilts=False, measured=True,
    ),
    "b2": Method(
        lambda walk, _: PolicyGradient(walk, [Relative(), Standard(within="batch"), Extremes(0.5)], clip=0.2),
        tilts=False, shared=lambda steps: Growing(steps // 2, 0, MOMENTS[-1]),
    ),
    "setpo": Method(
        lambda walk, _: PolicyGradient(walk, [Relative(), Standard(), Varied()], clip=0.2), times=2, tilts=False
    ),
    "dpp": Method(
        lambda walk, _: PolicyGradient(walk, [Novel(weight=0.1), Relative(), Standard()], clip=0.2),
        times=2, tilts=False,
    ),
}  # fmt: skip
"""`dpok`: the divergence as a penalty, at the temperature itself."""


DENOISED = ("awm", "fpo")
"""They denoise what a walk has ended in, from Gaussian noise on it: one of four states has none."""


def jobs(scale: Scale) -> Iterator[Job]:
    """One for each method where samples are drawn, and one for each that can be said of the chain."""
    sizes = {"steps": 4, "seeds": 1} if scale.small else {"steps": MOMENTS[-1], "seeds": SEEDS}
    for name in METHODS:
        settings = {"kind": "frontier", "method": name, "scenes": ["modes", "one"], "scale": scale.name, **sizes}
        yield Job(f"frontier-{name}", settings | {"drawn": 500 if scale.small else DRAWN})
    for name in METHODS:
        if name not in DENOISED:
            settings = {"kind": "frontier", "method": name, "scenes": ["chain"], "scale": scale.name, **sizes}
            yield Job(f"chain-{name}", settings)


def frontier(job: Job, store: Store) -> dict[str, Any]:
    """Where each temperature, or each moment of a training without one, leads, scene by scene."""
    settings = job.settings
    rows = [
        row for scene in settings["scenes"] for seed in range(settings["seeds"]) for row in led(settings, scene, seed)
    ]
    tilted = [row["from_tilt"] for row in rows if row["from_tilt"] is not None]
    top = max(row["reward"] for row in rows if row["scene"] == settings["scenes"][0])
    best = f"{min(tilted):.3f} to {max(tilted):.3f} nats from the tilt" if tilted else "no tilt is aimed at"
    return {"said": f"reward up to {top:.3f}; {best}", "rows": rows}


def led(settings: dict[str, Any], name: str, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of one scene and seed."""
    scene, method, drawn = SCENES[name](), METHODS[settings["method"]], settings.get("drawn", 0)
    before = scene.law(scene.walk(scene.model(seed)), drawn)
    here = {"scene": name, "seed": seed}
    if method.tilts:
        for beta in BETAS:
            [(walk, calls)] = trained(settings, scene, beta, seed, (settings["steps"],))
            yield here | {"beta": beta, "calls": calls, **scene.compared(scene.law(walk, drawn), before, beta)}
        return
    moments = tuple(m for m in MOMENTS if m <= settings["steps"]) or (settings["steps"],)
    for (walk, calls), at in zip(trained(settings, scene, 1.0, seed, moments), moments, strict=True):
        yield here | {"step": at, "calls": calls, **scene.compared(scene.law(walk, drawn), before, None)}


def trained(
    settings: dict[str, Any], scene: Scene, beta: float, seed: int, moments: tuple[int, ...]
) -> list[tuple[Walk, int]]:
    """Walks of the weights at these steps, and how many rewards had been asked for."""
    method = METHODS[settings["method"]]
    walk = scene.walk(scene.model(seed))
    made = method.made(walk, beta, scene.flow(seed)) if method.flows else method.made(walk, beta)
    shared = None if method.shared is None else method.shared(scene.steps)
    own: Any = OwnWalks(
        walk, scene.shape, BATCH, scene.reward, each=method.each, plug=method.plug, shared=shared, **scene.drawing
    )
    own = Anchored(own) if method.paired else Measured(own, made) if method.measured else own
    source = own if method.times == 1 else Kept(own, method.times)
    part = made.part(AdamW(scene.rate, warmup=10), shadows=())
    trainer = Trainer([part], source, settings["steps"], seed=seed, progress=False)
    found = []
    for moment in moments:
        while trainer.step < moment:
            trainer.advance()
        copy = scene.model(seed)
        copy.load_state_dict(walk.denoiser.state_dict())
        found.append((scene.walk(copy), BATCH * -(-moment // method.times) * method.asked(scene)))
    return found


def ends(walk: Walk, count: int) -> Tensor:
    """Where walks end: the same noise for all models."""
    x = walk.run(PATH.prior((count, 2), seeds=1), seeds=2).x
    assert isinstance(x, Tensor)
    return x.double()


def fitted(x: Tensor, law: GaussianMixture) -> GaussianMixture:
    """Gaussians of the same moments, of what is nearest to each mode. A mode that nothing is left of keeps its form."""
    mode = torch.cdist(x, law.means).argmin(1)
    parts = [x[mode == k] for k in range(len(law.weights))]
    shares = torch.tensor([max(len(part), 1e-9) for part in parts]).double()
    found = [
        (part.mean(0), part.T.cov()) if len(part) > 2 else (law.means[k], law.covariances[k])
        for k, part in enumerate(parts)
    ]
    means, covariances = zip(*found, strict=True)
    return GaussianMixture(shares, torch.stack(means), torch.stack(covariances))


def divergence(p: GaussianMixture, q: GaussianMixture) -> float:
    """`sum_k p_k (log(p_k / q_k) + KL(N_k | N'_k))`, part by part: the divergence where parts lie apart."""
    total = 0.0
    for k, share in enumerate(p.weights.tolist()):
        inverse, d = torch.linalg.inv(q.covariances[k]), p.means[k] - q.means[k]
        spread = torch.trace(inverse @ p.covariances[k]) + d @ inverse @ d - p.dim
        within = 0.5 * float(spread + torch.logdet(q.covariances[k]) - torch.logdet(p.covariances[k]))
        total += share * (math.log(share / float(q.weights[k])) + within)
    return total
