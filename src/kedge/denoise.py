"""A denoiser: a network seen through a path. Given x_t and its level it returns the expected clean x.

Everything else (noise, velocity, score) is a conversion of that one quantity, and a guided, composed or constrained
model is again a denoiser that wraps denoisers, so every solver takes every one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from kedge import elementary as el
from kedge.elementary import Level
from kedge.paths.gaussian import GaussianPath, affine, scaled
from kedge.paths.phase_bridge import PhaseBridge
from kedge.paths.trig import Trig
from kedge.tree import Tree, first_leaf, tree_map

Prediction = Literal["clean", "eps", "velocity", "score", "trig", "edm", "edm_plain"]
"""What a network's output means."""

Pinning = Literal["clean", "noised"]
"""What pinned entries look like to the network on the way: clean throughout, or at the level of the rest."""

Hearing = Literal["c_noise", "log_snr"]
"""How the network is told the level: `ln(noise scale) / 4`, EDM's c_noise, or the log-SNR."""

REMEMBERED_LEVELS = 4096
"""How many plain levels a denoiser keeps coefficients of: those of a few grids."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a denoiser knows about a noised state."""

    x: Tree
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the network says: a variance, a value, an energy, attention."""


@runtime_checkable
class Estimator(Protocol):
    """What solvers, hooks and losses ask of a denoiser."""

    @property
    def path(self) -> GaussianPath:
        """The path that it denoises."""
        ...

    @property
    def pinned(self) -> Pinning:
        """How it was trained to see pinned entries."""
        ...

    def __call__(self, x_t: Tree, t: Level, cond: Any = None) -> Any:
        """The expected clean x: `estimate(...).x`."""
        ...

    def estimate(self, x_t: Tree, t: Level, cond: Any = None) -> Estimate:
        """The expected clean x and whatever else is known."""
        ...

    def prepare(self, cond: Any) -> Any:
        """Encodes the condition, once a walk rather than once a step."""
        ...


class Denoiser(nn.Module):
    """`D(x_t, t) = c_skip x_t + c_out F(c_in x_t, c_noise)` for a network F.

    Args:
        net: `net(x, told)` or `net(x, told, cond)`, returning a tensor of x's shape, or a pair of it and a dictionary
            of extras. `told` has shape `[B]`, or `[B, T]` where levels differ between the entries of a sample.
        path: how data becomes noise.
        predict: what the output means: `clean`, `eps`, `velocity` or `score`; `trig`, TrigFlow's F; `edm`, EDM's
            preconditioning, on any path; `edm_plain`, the same output, of a network that is given x_t as it is.
        sigma_data: standard deviation of the data, for `edm`; on a trig path it is the path's.
        hears: how the network is told the level.
        pinned: `"clean"` if it is trained with known entries clean and without loss on them.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        path: GaussianPath,
        predict: Prediction = "eps",
        *,
        sigma_data: float | None = None,
        hears: Hearing = "c_noise",
        pinned: Pinning = "noised",
    ) -> None:
        super().__init__()
        if not isinstance(cast(object, path), GaussianPath):
            raise TypeError(f"a denoiser needs a path from kedge.paths, such as Trig(), not {path!r}")
        _known("predict", predict, Prediction)
        _known("hears", hears, Hearing)
        _known("pinned", pinned, Pinning)
        if predict == "trig" and not isinstance(path, Trig):
            raise ValueError(f'predict="trig" needs a Trig path, not {path}; use predict="velocity" or "edm"')
        if predict in ("edm", "edm_plain") and sigma_data is None and not isinstance(path, Trig):
            raise ValueError(f'predict="{predict}" needs sigma_data, the standard deviation of the data')
        if sigma_data is not None and not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data is the standard deviation of the data, a positive number; got {sigma_data}")
        if predict == "trig" and isinstance(path, Trig) and sigma_data not in (None, path.sigma_data):
            raise ValueError(f"sigma_data={sigma_data} contradicts the path's {path.sigma_data}: leave it out")
        self.net = net
        self.path = path
        self.predict: Prediction = predict
        self.sigma_data = path.sigma_data if sigma_data is None and isinstance(path, Trig) else sigma_data
        self.hears: Hearing = hears
        self.pinned: Pinning = pinned
        self._span = path.log_snr(path.t_max), path.log_snr(path.t_min)
        self._remembered: dict[float, tuple[Any, Any, Any, Any]] = {}

    def forward(self, x_t: Tree, t: Level, cond: Any = None) -> Any:
        """The expected clean x."""
        self.path.check(t)
        return self.estimate(x_t, t, cond).x

    def estimate(self, x_t: Tree, t: Level, cond: Any = None) -> Estimate:
        """The expected clean x, and the network's extras. Times are not checked here: the walk has checked its grid."""
        c_in, c_skip, c_out, level = self._at(t)
        heard = x_t if _is_one(c_in) else tree_map(lambda x: scaled(c_in, x), x_t)
        told = _spread(level, first_leaf(x_t))
        f = self.net(heard, told) if cond is None else self.net(heard, told, cond)
        f, extra = f if isinstance(f, tuple) else (f, None)
        _same_shape(f, x_t)
        if first_leaf(f).dtype != first_leaf(x_t).dtype:  # autocast: the coefficients are not to be rounded with f
            f = tree_map(lambda x, f: f.to(x.dtype), x_t, f)
        x = f if self.predict == "clean" else affine(c_skip, x_t, c_out, f)
        return Estimate(x) if extra is None else Estimate(x, extra)

    def _at(self, t: Level) -> tuple[Any, Any, Any, Any]:
        """The preconditioning and what the network hears, remembered for the plain levels of a walk. In a compiled
        graph they are numbers of the graph, and what is remembered would be guarded: it would be compiled twice.
        """
        if isinstance(t, Tensor) or torch.compiler.is_compiling():
            return *self.preconditioning(t), self.told(t)
        known = self._remembered.get(t)
        if known is None:
            known = *self.preconditioning(t), self.told(t)
            if len(self._remembered) < REMEMBERED_LEVELS:
                self._remembered[t] = known
        return known

    def preconditioning(self, t: Level) -> tuple[Any, Any, Any]:
        """`(c_in, c_skip, c_out)`. For a quantity of the path c_in is 1. TrigFlow:

            c_in = 1 / sigma_data,  c_skip = cos t,  c_out = -sigma_data sin t

        EDM's (table 1) with its state x_t / alpha and noise scale sigma / alpha, in a form that holds at alpha = 0:

            n = sqrt(sigma^2 + alpha^2 sigma_data^2)
            c_in = 1 / n (1 if plain),  c_skip = alpha sigma_data^2 / n^2,  c_out = sigma sigma_data / n
        """
        if self.predict == "trig":
            s_d = cast(float, self.sigma_data)
            return 1 / s_d, el.cos(t), -s_d * el.sin(t)
        if self.predict in ("edm", "edm_plain"):
            s_d, alpha, sigma = cast(float, self.sigma_data), self.path.alpha(t), self.path.sigma(t)
            n = el.sqrt(sigma * sigma + alpha * alpha * s_d * s_d)
            return 1 / n if self.predict == "edm" else 1.0, alpha * s_d * s_d / (n * n), sigma * s_d / n
        return 1.0, *self.path.to_clean(self.predict, t)

    def with_net(self, net: Callable[..., Any]) -> Denoiser:
        """Another network, seen alike: on the same path, its output of the same meaning, told the level alike."""
        s_d, hears, pinned = self.sigma_data, self.hears, self.pinned
        return Denoiser(net, self.path, self.predict, sigma_data=s_d, hears=hears, pinned=pinned)

    def told(self, t: Level) -> Any:
        """What the network hears of the level, held within the path's times: it never hears the infinite log-SNR of a
        clean entry.
        """
        log_snr = el.clip(self.path.log_snr(t), *self._span)
        return _level(log_snr, self.hears)

    def prepare(self, cond: Any) -> Any:
        """The network's own encoding of the condition, where it has one."""
        encode = getattr(self.net, "prepare", None)
        return cond if encode is None or cond is None else encode(cond)


class Accelerating(nn.Module):
    """A network of position and velocity on a phase bridge, seen as a denoiser: it predicts the acceleration that is
    left, in units in which its target has a variance of about 1,

        x_hat = x + t (v + t a / 4),      a = c F(x, v),      c = 4 / t^2 sqrt(var(x_1 - x - t v))

    for data of variance `sigma_data^2`. Chen et al., "Generative modeling with phase stochastic bridges", ICLR 2024.

    Args:
        net: `net(joined, told)` or `net(joined, told, cond)` on position and velocity side by side along the last axis;
            it returns the position's shape.
        path: the bridge.
        sigma_data: standard deviation of the data.
        hears: how the network is told the level.
    """

    pinned: Pinning = "noised"

    def __init__(
        self, net: Callable[..., Any], path: PhaseBridge, sigma_data: float = 1.0, hears: Hearing = "c_noise"
    ) -> None:
        super().__init__()
        self.net, self.path, self.sigma_data = net, path, sigma_data
        self.hears: Hearing = hears
        self._remembered: dict[float, tuple[Any, Tensor]] = {}

    def forward(self, x_t: Tree, t: Level, cond: Any = None) -> Any:
        """The expected clean x; the field `"v"` is 0."""
        self.path.check(t)
        return self.estimate(x_t, t, cond).x

    def estimate(self, x_t: Tree, t: Level, cond: Any = None) -> Estimate:
        """See the class."""
        x, v = cast(Any, x_t)["x"], cast(Any, x_t)["v"]
        level, spread_left = self._at(t)
        told = _spread(level, x)
        joined = torch.cat([x, v], -1)
        f = self.net(joined, told) if cond is None else self.net(joined, told, cond)
        left = scaled(spread_left, f)
        return Estimate({"x": x + scaled(t, v) + left, "v": torch.zeros_like(x)})

    def _at(self, t: Level) -> tuple[Any, Tensor]:
        """What the network hears, and what its output is multiplied by: remembered for the plain levels of a walk."""
        if isinstance(t, Tensor) or torch.compiler.is_compiling():
            return _level(self.path.log_snr(t), self.hears), self._spread_left(t)
        if (known := self._remembered.get(t)) is None:
            known = _level(self.path.log_snr(t), self.hears), self._spread_left(t)
            if len(self._remembered) < REMEMBERED_LEVELS:
                self._remembered[t] = known
        return known

    def _spread_left(self, t: Level) -> Any:
        """The standard deviation of `x_1 - x - t v`."""
        u = torch.as_tensor(t, dtype=torch.float64)
        row = torch.stack([torch.ones_like(u), u], -1)[..., None, :]
        mean = 1 - (row @ self.path.M(u))[..., 0, 0]
        spread = (row @ self.path.covariance(u) @ row.mT)[..., 0, 0]
        return (mean**2 * self.sigma_data**2 + spread).sqrt()

    def prepare(self, cond: Any) -> Any:
        """The network's own encoding of the condition, where it has one."""
        encode = getattr(self.net, "prepare", None)
        return cond if encode is None or cond is None else encode(cond)


def _level(log_snr: Any, hears: Hearing) -> Any:
    """What a network is told of the level."""
    return log_snr if hears == "log_snr" else -0.125 * log_snr


def _spread(level: Level, x: Tensor) -> Tensor:
    """A level for each sample, `[B]`, or for each entry down to the last axis along which they differ, `[B, ...]`."""
    if not isinstance(level, Tensor):
        return x.new_full((x.shape[0],), level)
    while level.ndim > 1 and level.shape[-1] == 1:
        level = level[..., 0]
    return level.to(device=x.device, dtype=x.dtype).expand(x.shape[0], *level.shape[1:])


class Bare:
    """A callable `f(x_t, t)` or `f(x_t, t, cond)` with a `.path`, as a denoiser."""

    def __init__(self, f: Callable[..., Any], path: GaussianPath, pinned: Pinning) -> None:
        _known("pinned", pinned, Pinning)
        self.f = f
        self.path = path
        self.pinned: Pinning = pinned

    def __call__(self, x_t: Tree, t: Level, cond: Any = None) -> Any:
        """The expected clean x."""
        self.path.check(t)
        return self.estimate(x_t, t, cond).x

    def estimate(self, x_t: Tree, t: Level, cond: Any = None) -> Estimate:
        """The expected clean x. Times are not checked here: the walk has checked its grid."""
        x = self.f(x_t, t) if cond is None else self.f(x_t, t, cond)
        _same_shape(x, x_t)
        return Estimate(x)

    def prepare(self, cond: Any) -> Any:
        """As it came."""
        return cond


def as_estimator(denoiser: Any) -> Estimator:
    """The denoiser itself, or a bare callable with `.path` made into one."""
    if isinstance(denoiser, Estimator):
        return denoiser
    path: Any = getattr(denoiser, "path", None)
    if not callable(denoiser) or not isinstance(path, GaussianPath):
        raise TypeError(f"a denoiser is a callable with a .path; got {type(denoiser).__name__} with path {path!r}")
    pinned: Any = getattr(denoiser, "pinned", "noised")
    return Bare(denoiser, path, pinned)


@runtime_checkable
class Rule(Protocol):
    """How a denoiser is changed: given the inner one, the estimate at x_t."""

    def __call__(self, inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
        """The changed estimate."""
        ...


class Wrapped:
    """A denoiser changed by a rule: guidance, thresholding, projection, calibration. It is again a denoiser."""

    def __init__(self, inner: Any, rule: Rule) -> None:
        self.inner = as_estimator(inner)
        self.rule = rule

    @property
    def path(self) -> GaussianPath:
        """The inner denoiser's path."""
        return self.inner.path

    @property
    def pinned(self) -> Pinning:
        """As the inner denoiser was trained."""
        return self.inner.pinned

    def __call__(self, x_t: Tree, t: Level, cond: Any = None) -> Any:
        """The expected clean x."""
        self.path.check(t)
        return self.rule(self.inner, x_t, t, cond).x

    def estimate(self, x_t: Tree, t: Level, cond: Any = None) -> Estimate:
        """The changed estimate."""
        return self.rule(self.inner, x_t, t, cond)

    def prepare(self, cond: Any) -> Any:
        """As the inner denoiser does."""
        return self.inner.prepare(cond)


def _known(name: str, value: str, options: Any) -> None:
    if value not in get_args(options):
        raise ValueError(f"unknown {name}={value!r}: one of {', '.join(get_args(options))}")


def _is_one(value: Level) -> bool:
    return not isinstance(value, Tensor) and value == 1.0


def _same_shape(out: Any, x: Tree) -> None:
    if isinstance(x, Tensor):
        if not isinstance(out, Tensor) or out.shape != x.shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the network returned {got} for a state of shape {tuple(x.shape)}: they must agree")
    elif not isinstance(out, dict) or any(out[name].shape != leaf.shape for name, leaf in x.items() if name in out):
        raise ValueError("the network's output must have the fields and shapes of the state")
    elif out.keys() != x.keys():
        raise ValueError(f"the network returned the fields {sorted(out)} for a state with {sorted(x)}")
