"""Reward against divergence where both are known: small models of exact laws, moved toward exact tilts of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from kedge.exact import Corrected, GaussianMixture, Quadratic
from kedge.paths import Trig
from kedge.train import AdamW, Trainer
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


@dataclass(frozen=True)
class Scene:
    """A law, a reward, and the tilt of a law of its kind: what `p e^{reward / beta}` is."""

    law: GaussianMixture
    reward: Callable[..., Tensor]
    tilt: Callable[[GaussianMixture, float], GaussianMixture]


def modes() -> Scene:
    """Four modes, two on either side; one on the right is worth 1."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES) + math.pi / 4
    means = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)

    def right(x: Any, cond: Any = None) -> Tensor:
        return (x[:, 0] > 0).float()

    def tilt(law: GaussianMixture, beta: float) -> GaussianMixture:
        return GaussianMixture(law.weights * (right(law.means) / beta).exp(), law.means, law.covariances)

    return Scene(GaussianMixture([1 / MODES] * MODES, means, [STD**2] * MODES), right, tilt)


def one() -> Scene:
    """A Gaussian, and minus half the squared distance from a point beside its middle."""
    aim = Quadratic(torch.eye(2).double(), torch.tensor([1.0, 0.0]).double())

    def near(x: Any, cond: Any = None) -> Tensor:
        return aim(x) - 0.5

    def tilt(law: GaussianMixture, beta: float) -> GaussianMixture:
        return law.tilt(Quadratic(aim.A / beta, aim.b / beta))

    return Scene(GaussianMixture([1.0], torch.zeros(1, 2), [0.73**2]), near, tilt)


SCENES: dict[str, Callable[[], Scene]] = {"modes": modes, "one": one}


@dataclass(frozen=True)
class Method:
    """How a model is moved. `tilts`: whether it has a temperature, and with it an exact target. `paired`: whether walks
    come in pairs from one start, with rewards of estimates on the way; `shared`: so many of the first steps are the
    same for a group. `measured`: the source keeps what its walks were denoised like.
    """

    made: Callable[[Walk, float], Any]
    each: int = 8
    plug: bool = False
    times: int = 1
    tilts: bool = True
    paired: bool = False
    shared: Any = None
    measured: bool = False

    @property
    def asked(self) -> int:
        """How often a walk's reward is asked for."""
        return STEPS if self.plug else 3 if self.paired else 1


def clipped(walk: Walk, penalty: float = 0.0, *, others: bool = False) -> PolicyGradient:
    """DDPO, or with each sample left out of its own mean and nothing divided."""
    pieces = (Relative(others=True),) if others else (Relative(), Standard(), Clamp())
    return PolicyGradient(walk, pieces, clip=0.2, penalty=penalty)


METHODS: dict[str, Method] = {
    "vmpo": Method(lambda walk, beta: VMPO(walk, beta)),
    "vmpo-group": Method(lambda walk, beta: VMPO(walk, beta, baseline="group")),
    "vmpo-log-z": Method(lambda walk, beta: VMPO(walk, beta, baseline="log-z"), each=1),
    "vmpo-pair": Method(lambda walk, beta: VMPO(walk, beta, baseline="pair"), each=2),
    "vmpo-plugged": Method(lambda walk, beta: VMPO(walk, beta, potential="difference", baseline="batch"), plug=True),
    "vmpo-replayed": Method(lambda walk, beta: VMPO(walk, beta), times=4),
    "ddpo": Method(lambda walk, _: clipped(walk), times=2, tilts=False),
    "loop": Method(lambda walk, _: clipped(walk, others=True), times=2, tilts=False),
    "dpok": Method(lambda walk, beta: clipped(walk, beta, others=True), times=2),
    "awm": Method(lambda walk, _: Matching(walk, draws=6, trust=1.0, penalty=1e-3), tilts=False),
    "sdpo": Method(lambda walk, _: StepPairs(walk), each=2, tilts=False, paired=True, shared=0),
    "fpo": Method(
        lambda walk, _: Matching(walk, clip=0.05, ratio="sample", draws=8, space="eps"),
        times=4, tilts=False, measured=True,
    ),
    "b2": Method(
        lambda walk, _: PolicyGradient(walk, [Relative(), Standard(within="batch"), Extremes(0.5)], clip=0.2),
        tilts=False, shared=Growing(STEPS // 2, 0, MOMENTS[-1]),
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


def jobs(scale: Scale) -> Iterator[Job]:
    """One for each method."""
    for name in METHODS:
        sizes = {"steps": 4, "seeds": 1, "drawn": 500} if scale.small else {
            "steps": MOMENTS[-1], "seeds": SEEDS, "drawn": DRAWN,
        }  # fmt: skip
        settings = {"kind": "frontier", "method": name, "scenes": list(SCENES), "scale": scale.name, **sizes}
        yield Job(f"frontier-{name}", settings)


def frontier(job: Job, store: Store) -> dict[str, Any]:
    """Where each temperature, or each moment of a training without one, leads, scene by scene."""
    settings = job.settings
    rows = [
        row for scene in settings["scenes"] for seed in range(settings["seeds"]) for row in led(settings, scene, seed)
    ]
    tilted = [row["from_tilt"] for row in rows if row["from_tilt"] is not None]
    top = max(row["reward"] for row in rows if row["scene"] == "modes")
    best = f"{min(tilted):.3f} to {max(tilted):.3f} nats from the tilt" if tilted else "no tilt is aimed at"
    return {"said": f"reward up to {top:.3f}; {best}", "rows": rows}


def led(settings: dict[str, Any], name: str, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of one scene and seed."""
    scene, method = SCENES[name](), METHODS[settings["method"]]
    before = fitted(ends(walk_of(Corrected(scene.law, PATH, seed=seed)), settings["drawn"]), scene)
    here = {"scene": name, "seed": seed}
    if method.tilts:
        for beta in BETAS:
            [(walk, calls)] = trained(settings, scene, beta, seed, (settings["steps"],))
            yield here | {"beta": beta, "calls": calls, **compared(walk, before, beta, scene, settings)}
        return
    moments = tuple(m for m in MOMENTS if m <= settings["steps"]) or (settings["steps"],)
    for (walk, calls), at in zip(trained(settings, scene, 1.0, seed, moments), moments, strict=True):
        yield here | {"step": at, "calls": calls, **compared(walk, before, None, scene, settings)}


def trained(
    settings: dict[str, Any], scene: Scene, beta: float, seed: int, moments: tuple[int, ...]
) -> list[tuple[Walk, int]]:
    """Walks of the weights at these steps, and how many rewards had been asked for."""
    method = METHODS[settings["method"]]
    walk = walk_of(Corrected(scene.law, PATH, seed=seed))
    made = method.made(walk, beta)
    own: Any = OwnWalks(walk, (2,), BATCH, scene.reward, each=method.each, plug=method.plug, shared=method.shared)
    own = Anchored(own) if method.paired else Measured(own, made) if method.measured else own
    source = own if method.times == 1 else Kept(own, method.times)
    trainer = Trainer(
        [made.part(AdamW(RATE, warmup=10), shadows=())], source, settings["steps"], seed=seed, progress=False
    )
    found = []
    for moment in moments:
        while trainer.step < moment:
            trainer.advance()
        copy = Corrected(scene.law, PATH, seed=seed)
        copy.load_state_dict(walk.denoiser.state_dict())
        found.append((walk_of(copy), BATCH * -(-moment // method.times) * method.asked))
    return found


def walk_of(model: Corrected) -> Walk:
    """Ancestral, from pure noise."""
    return Walk(model, solvers.DDPM(), grids.LogSNR(STEPS, 0.05, 50.0))


def ends(walk: Walk, count: int) -> Tensor:
    """Where walks end: the same noise for all models."""
    x = walk.run(PATH.prior((count, 2), seeds=1), seeds=2).x
    assert isinstance(x, Tensor)
    return x.double()


def compared(
    walk: Walk, before: GaussianMixture, beta: float | None, scene: Scene, settings: dict[str, Any]
) -> dict[str, Any]:
    """The reward, how far the ends are from what they were and from the tilt of that, in nats, how far their mean is
    from the tilt's, and the effective share of them that weights toward the tilt would leave.
    """
    x = ends(walk, settings["drawn"])
    after = fitted(x, scene)
    found = {"reward": float(scene.reward(x).mean()), "from_before": divergence(after, before)}
    found |= {"shares": np.round(after.weights.numpy(), 5).tolist(), "from_tilt": None}
    if beta is None:
        return found
    target = scene.tilt(before, beta)
    w = (target.log_prob(x) - after.log_prob(x)).softmax(0)
    off = float((after.mean - target.mean).norm())
    return found | {"from_tilt": divergence(after, target), "off": off, "ess": 1 / float((w**2).sum() * len(w))}


def fitted(x: Tensor, scene: Scene) -> GaussianMixture:
    """Gaussians of the same moments, of what is nearest to each mode. A mode that nothing is left of keeps its form."""
    law, mode = scene.law, torch.cdist(x, scene.law.means).argmin(1)
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
