"""The denoiser: what its network hears, what its output means, and that a wrapped denoiser is a denoiser again."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from every_path import PATHS, between, every_path
from kedge import denoise
from kedge import paths as kedge_paths
from kedge.cond import Cond
from kedge.denoise import Bare, Denoiser, Estimate, Estimator, Wrapped, as_estimator
from kedge.elementary import Level
from kedge.exact import GaussianMixture
from kedge.paths import GaussianPath, Trig
from kedge.tree import Tree, lead

EPS = torch.finfo(torch.float64).eps
PREDICTIONS = ("clean", "eps", "velocity", "score", "edm", "trig")
SIGMA_DATA = 0.6
SHARES = (0.02, 0.3, 0.6, 0.9)

Net = Callable[..., Any]


def cases() -> list[Any]:
    """Every prediction on every path: F of TrigFlow on its own paths alone."""
    pairs = itertools.product(PREDICTIONS, PATHS.items())
    return [
        pytest.param(predict, path, id=f"{predict}-{name}")
        for predict, (name, path) in pairs
        if predict != "trig" or isinstance(path, Trig)
    ]


every_case = pytest.mark.parametrize(("predict", "path"), cases())


def made(net: Net, path: GaussianPath, predict: Any, **options: Any) -> Denoiser:
    return Denoiser(net, path, predict, sigma_data=SIGMA_DATA if predict == "edm" else None, **options)


def output(predict: str, path: GaussianPath, t: Tensor, heard: Tensor, D: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What a network has to say for its denoiser to be D: from the papers' definitions, in their own variables."""
    alpha, sigma = (lead(f(t) + 0 * t, heard) for f in (path.alpha, path.sigma))
    d_alpha, d_sigma = (lead(f(t) + 0 * t, heard) for f in (path.d_alpha, path.d_sigma))
    if predict == "edm":  # Karras et al., eq. 7: D = c_skip x + c_out F(c_in x) of x = x_t / alpha at the noise scale
        scale, s_d = sigma / alpha, SIGMA_DATA
        total = scale**2 + s_d**2
        x = heard * total.sqrt()
        return (D(alpha * x, t) - s_d**2 / total * x) / (scale * s_d / total.sqrt())
    if predict == "trig":  # Lu and Song, eq. 5 and 7: sigma_data F(x_t / sigma_data, t) = dx_t/dt
        assert isinstance(path, Trig)
        x = D(heard * path.sigma_data, t)
        z = (heard * path.sigma_data - alpha * x) / sigma
        return (d_alpha * x + d_sigma * z) / path.sigma_data
    x = D(heard, t)
    z = (heard - alpha * x) / sigma
    return {"clean": x, "eps": z, "score": -z / sigma, "velocity": d_alpha * x + d_sigma * z}[predict]


def mixture() -> GaussianMixture:
    means = torch.tensor([[1.0, -0.5], [-0.8, 0.3]], dtype=torch.float64)
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]]], dtype=torch.float64)
    return GaussianMixture([0.3, 0.7], means, covariances)


@every_case
@pytest.mark.parametrize("hears", ["c_noise", "log_snr"])
def test_an_exact_network_makes_an_exact_denoiser(predict: str, path: GaussianPath, hears: Any) -> None:
    """The network reads the time off what it is told, the state off what it hears. A rounding of x_t / alpha or of the
    noise scale is all that may be lost, times what time_of loses.
    """
    exact = mixture().denoiser(path)

    def net(heard: Tensor, told: Tensor) -> Tensor:
        t = path.time_of(told if hears == "log_snr" else -8 * told)
        return output(predict, path, t.clamp(max=path.t_max), heard, exact)

    denoiser = made(net, path, predict, hears=hears)
    z = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.tensor([between(path, share) for share in SHARES], dtype=torch.float64)
    for t, z_t in zip(times.tolist(), z, strict=True):
        x_t = path.perturb(mixture().sample(5), t, z_t)
        scale = path.noise_scale(t)
        allowed = 512 * EPS * (1 + x_t.abs() / path.alpha(t) + scale) * (1 + scale)
        assert ((denoiser(x_t, t) - exact(x_t, t)).abs() < allowed).all(), t
    x_t = path.perturb(mixture().sample(4), times, z[:, 0])
    a, s = path.alpha(times) + 0 * times, path.sigma(times)
    allowed = 512 * EPS * (1 + x_t.abs() / a[:, None] + (s / a)[:, None]) * (1 + s / a)[:, None]
    assert ((denoiser(x_t, times) - exact(x_t, times)).abs() < allowed).all()


@every_case
def test_the_error_of_the_output_is_the_clean_error_times_its_factor(predict: str, path: GaussianPath) -> None:
    """For a network that is anything: |F - F*|^2 = factor |x_hat - x|^2, F* the output whose denoiser would say x."""
    generator = torch.Generator().manual_seed(1)
    x, z, f = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    for share in SHARES:
        t = between(path, share)
        level = torch.full((6,), t, dtype=torch.float64)
        alpha, sigma = path.alpha(t), path.sigma(t)
        heard: list[Tensor] = []
        x_hat = made(lambda x, told, heard=heard: heard.append(x) or f, path, predict)(path.perturb(x, t, z), t)
        target = output(predict, path, level, heard[0], lambda x_t, t: x)
        snr, scale = (alpha / sigma) ** 2, sigma / alpha
        s_d = path.sigma_data if isinstance(path, Trig) and predict == "trig" else SIGMA_DATA
        edm = (scale**2 + s_d**2) / (scale * s_d) ** 2  # EDM's lambda: 1 / c_out^2
        factor = {
            "clean": 1.0,
            "eps": snr,
            "score": snr / sigma**2,
            "velocity": (path.d_alpha(t) - path.d_sigma(t) * alpha / sigma) ** 2,
            "edm": edm,
            "trig": edm,
        }[predict]
        allowed = 1e-12 * factor * (x_hat.abs() + x.abs() + path.perturb(x, t, z).abs() / alpha) ** 2
        assert (((f - target) ** 2 - factor * (x_hat - x) ** 2).abs() <= allowed).all(), (t, factor)


def test_edms_weighting_makes_the_output_of_unit_weight() -> None:
    """`lambda c_out^2 = 1` with EDM's table 1, and c_in, c_skip of its table on its own path."""
    denoiser = made(lambda x, told: x, PATHS["VarianceExploding"], "edm")
    for sigma in (0.002, 0.3, 5.0, 80.0):
        c_in, c_skip, c_out = denoiser.preconditioning(sigma)
        total = sigma**2 + SIGMA_DATA**2
        assert c_in == pytest.approx(total**-0.5, rel=1e-15)
        assert c_skip == pytest.approx(SIGMA_DATA**2 / total, rel=1e-15)
        assert c_out == pytest.approx(sigma * SIGMA_DATA * total**-0.5, rel=1e-15)
        assert total / (sigma * SIGMA_DATA) ** 2 * c_out**2 == pytest.approx(1, rel=1e-15)
        assert denoiser.told(sigma) == pytest.approx(math.log(sigma) / 4, rel=1e-14)


@every_path
def test_inputs_and_targets_of_edm_and_trig_have_unit_variance(path: GaussianPath) -> None:
    """For data of std sigma_data: what preconditioning is for."""
    for predict, s_d in (("edm", SIGMA_DATA), ("trig", getattr(path, "sigma_data", None))):
        if s_d is None:
            continue
        denoiser = made(lambda x, told: x, path, predict)
        for share in SHARES:
            t = between(path, share)
            c_in, c_skip, c_out = denoiser.preconditioning(t)
            alpha, sigma = path.alpha(t), path.sigma(t)
            assert c_in**2 * (alpha**2 * s_d**2 + sigma**2) == pytest.approx(1, rel=1e-13)
            target = ((1 - c_skip * alpha) * s_d) ** 2 + (c_skip * sigma) ** 2
            assert target / c_out**2 == pytest.approx(1, rel=1e-9)


# What the network is told


@every_path
def test_what_the_network_hears_of_the_level(path: GaussianPath) -> None:
    for share in SHARES:
        t = between(path, share)
        scale = path.noise_scale(t)
        assert made(nn.Identity(), path, "eps").told(t) == pytest.approx(math.log(scale) / 4, rel=1e-12, abs=1e-13)
        log_snr = made(nn.Identity(), path, "eps", hears="log_snr").told(t)
        assert log_snr == pytest.approx(-2 * math.log(scale), rel=1e-12, abs=1e-13)


def affine_net(heard: Tensor, told: Tensor) -> Tensor:
    """A network that depends on everything it hears, entry by entry."""
    return torch.sin(heard) * 0.3 + lead(told, heard)


@every_case
@pytest.mark.parametrize("shape", [(1,), (3,), (3, 1), (3, 1, 1), (1, 4), (3, 4), (3, 4, 1), (1, 1, 1)])
def test_equal_levels_of_samples_or_entries_are_one_level(
    predict: str, path: GaussianPath, shape: tuple[int, ...]
) -> None:
    told_shapes: list[tuple[int, ...]] = []

    def net(heard: Tensor, told: Tensor) -> Tensor:
        told_shapes.append(tuple(told.shape))
        return affine_net(heard, told)

    denoiser = made(net, path, predict)
    x_t = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t = between(path, 0.6)
    one = denoiser(x_t, t)
    each = denoiser(x_t, torch.full(shape, t, dtype=torch.float64))
    torch.testing.assert_close(each, one, rtol=1e-12, atol=1e-12 * float(one.abs().max()))
    assert told_shapes == [(3,), (3, 4) if len(shape) > 1 and shape[1] == 4 else (3,)]
    torch.testing.assert_close(denoiser(x_t, torch.tensor(t, dtype=torch.float64)), each, rtol=1e-12, atol=1e-12)


@every_case
def test_levels_that_differ_between_entries(predict: str, path: GaussianPath) -> None:
    """Each entry as if alone, since this network looks at one at a time; clean entries among them."""
    denoiser = made(affine_net, path, predict)
    x_t = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t = torch.tensor([[0.0, between(path, 0.3), between(path, 0.7), path.t_max]], dtype=torch.float64)
    together = denoiser(x_t, t)
    assert together.isfinite().all()
    for j in range(4):
        alone = denoiser(x_t[:, j], float(t[0, j]))
        torch.testing.assert_close(together[:, j], alone, rtol=1e-9, atol=1e-9 * float(alone.abs().max()))


@every_case
def test_a_clean_entry_is_heard_as_t_min_and_given_back(predict: str, path: GaussianPath) -> None:
    told: list[Tensor] = []
    denoiser = made(lambda heard, level: told.append(level) or affine_net(heard, level), path, predict)
    x_t = torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for t in (0.0, torch.zeros(3, dtype=torch.float64)):
        x = denoiser(x_t, t)
        assert x.isfinite().all()
        if predict != "clean":  # the network's own word otherwise
            torch.testing.assert_close(x, x_t, rtol=4 * EPS, atol=0)
    denoiser(x_t, path.t_min)
    assert all(level.isfinite().all() for level in told)
    torch.testing.assert_close(told[0], told[2], rtol=1e-15, atol=0)
    torch.testing.assert_close(told[1], told[2], rtol=1e-15, atol=0)


# What goes in and out


def test_extras_pass_through() -> None:
    denoiser = Denoiser(lambda x, told: (x, {"value": told}), PATHS["Trig"], "clean")
    x_t = torch.randn(3, 2)
    estimate = denoiser.estimate(x_t, 0.5)
    assert estimate.x is x_t
    assert torch.equal(estimate.extra["value"], torch.full((3,), denoiser.told(0.5)))
    assert torch.equal(denoiser(x_t, 0.5), x_t)
    assert dict(Denoiser(lambda x, told: x, PATHS["Trig"], "clean").estimate(x_t, 0.5).extra) == {}


@every_case
def test_states_of_several_fields(predict: str, path: GaussianPath) -> None:
    def net(heard: Tree, told: Tensor) -> Tree:
        assert isinstance(heard, dict)
        return {name: affine_net(leaf, told) for name, leaf in heard.items()}

    generator = torch.Generator().manual_seed(2)
    x_t = {name: torch.randn(3, n, generator=generator, dtype=torch.float64) for name, n in (("a", 2), ("b", 5))}
    for t in (between(path, 0.6), torch.full((3,), between(path, 0.6), dtype=torch.float64)):
        whole = made(net, path, predict)(x_t, t)
        for name, leaf in x_t.items():
            torch.testing.assert_close(whole[name], made(affine_net, path, predict)(leaf, t), rtol=1e-14, atol=1e-14)


def test_the_condition_reaches_the_network_and_is_left_out_where_there_is_none() -> None:
    calls: list[tuple[Any, ...]] = []
    denoiser = Denoiser(lambda *args: calls.append(args) or args[0], PATHS["Trig"], "clean")
    x_t, cond = torch.randn(3, 2), Cond.of(goal=torch.zeros(3, 1))
    denoiser(x_t, 0.5)
    denoiser(x_t, 0.5, cond)
    assert [len(args) for args in calls] == [2, 3]
    assert calls[1][2] is cond


def test_prepare_is_the_networks_own() -> None:
    class Encoding(nn.Module):
        def prepare(self, cond: Any) -> Any:
            return f"encoded {cond}"

        def forward(self, x: Tensor, told: Tensor, cond: Any = None) -> Tensor:
            return x

    denoiser = Denoiser(Encoding(), PATHS["Trig"])
    assert denoiser.prepare("it") == "encoded it"
    assert denoiser.prepare(None) is None
    assert Wrapped(denoiser, doubled).prepare("it") == "encoded it"
    assert Denoiser(nn.Identity(), PATHS["Trig"]).prepare("it") == "it"
    assert Bare(lambda x, t: x, PATHS["Trig"], "noised").prepare("it") == "it"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor, told: Tensor, cond: Any = None) -> Tensor:
        return self.linear(x) + told[:, None]


def test_new_weights_are_heard_at_levels_that_were_seen_before() -> None:
    denoiser = Denoiser(Small(), PATHS["Cosine"], "velocity")
    x_t = torch.randn(3, 2)
    before = denoiser(x_t, 0.5)
    with torch.no_grad():
        denoiser.net.linear.weight += 1  # pyright: ignore
    after = denoiser(x_t, 0.5)
    assert not torch.isclose(before, after).all()
    assert torch.equal(after, Denoiser(denoiser.net, PATHS["Cosine"], "velocity")(x_t, 0.5))


def test_what_is_remembered_is_bounded_and_is_what_a_tensor_of_levels_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoise, "REMEMBERED_LEVELS", 10)
    denoiser = Denoiser(Small().double(), PATHS["Cosine"], "velocity")
    x_t = torch.randn(1, 2, dtype=torch.float64)
    for t in torch.linspace(0.1, 0.9, 13, dtype=torch.float64):
        for _ in range(2):
            torch.testing.assert_close(denoiser(x_t, float(t)), denoiser(x_t, t[None]), rtol=1e-13, atol=1e-13)
    assert len(denoiser._remembered) == 10


@every_path
def test_a_denoiser_is_a_module_like_any_other(path: GaussianPath) -> None:
    denoiser = made(Small(), path, "edm", pinned="clean")
    x_t, t = torch.randn(3, 2), between(path, 0.5)
    expected = denoiser(x_t, t)
    assert set(denoiser.state_dict()) == {"net.linear.weight", "net.linear.bias"}
    assert len(list(denoiser.parameters())) == 2
    for twin in (copy.deepcopy(denoiser), pickle.loads(pickle.dumps(denoiser))):
        assert torch.equal(twin(x_t, t), expected)
        assert twin.path == path
        assert twin.pinned == "clean"
        twin.net.linear.bias.data += 1
    assert torch.equal(denoiser(x_t, t), expected)
    other = made(Small(), path, "edm")
    other.load_state_dict(denoiser.state_dict())
    assert torch.equal(other(x_t, t), expected)
    expected.sum().backward()
    assert all(parameter.grad is not None for parameter in denoiser.parameters())


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_has_the_states_dtype(predict: str, path: GaussianPath, dtype: torch.dtype) -> None:
    denoiser = made(affine_net, path, predict)
    x_t = torch.randn(3, 2, dtype=dtype)
    for t in (between(path, 0.5), torch.full((3,), between(path, 0.5), dtype=torch.float64)):
        x = denoiser(x_t, t)
        assert x.dtype == dtype
        assert x.isfinite().all()


# Denoisers that wrap denoisers


def doubled(inner: Estimator, x_t: Tree, t: Level, cond: Any) -> Estimate:
    estimate = inner.estimate(x_t, t, cond)
    assert isinstance(estimate.x, Tensor)
    return Estimate(2 * estimate.x, estimate.extra)


def test_a_wrapped_denoiser_is_a_denoiser() -> None:
    inner = Denoiser(lambda x, told: (x, {"value": 1}), PATHS["Trig"], "clean", pinned="clean")
    wrapped = Wrapped(Wrapped(inner, doubled), doubled)
    x_t = torch.randn(3, 2)
    assert isinstance(wrapped, Estimator)
    assert as_estimator(wrapped) is wrapped
    assert wrapped.path is inner.path
    assert wrapped.pinned == "clean"
    assert torch.equal(wrapped(x_t, 0.5), 4 * x_t)
    assert wrapped.estimate(x_t, 0.5).extra == {"value": 1}


def test_a_bare_callable_with_a_path() -> None:
    class Half:
        path = PATHS["Cosine"]

        def __call__(self, x_t: Tensor, t: Level, cond: Any = None) -> Tensor:
            return 0.5 * x_t if cond is None else cond * x_t

    x_t = torch.randn(3, 2)
    bare = as_estimator(Half())
    assert isinstance(bare, Bare)
    assert bare.pinned == "noised"
    assert torch.equal(bare(x_t, 0.5), 0.5 * x_t)
    assert torch.equal(bare.estimate(x_t, 0.5, 3.0).x, 3 * x_t)  # pyright: ignore
    assert torch.equal(Wrapped(Half(), doubled)(x_t, 0.5), x_t)

    class Trained(Half):
        pinned = "clean"

    assert as_estimator(Trained()).pinned == "clean"


@pytest.mark.parametrize("wrong", [lambda x, t: x, object(), nn.Identity()], ids=["function", "object", "module"])
def test_a_callable_without_a_path(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"a denoiser is a callable with a \.path; got") as raised:
        as_estimator(wrong)
    assert "\n" not in str(raised.value)


# Bad input


def raw(*args: Any, **options: Any) -> Denoiser:
    """A denoiser as made without run-time checks of the annotations."""
    denoiser = Denoiser.__new__(Denoiser)
    inspect.unwrap(Denoiser.__init__)(denoiser, *args, **options)
    return denoiser


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: raw(nn.Identity(), PATHS["Cosine"], "noise"), "unknown predict='noise': one of clean, eps, velocity"),
        (lambda: raw(nn.Identity(), PATHS["Cosine"], hears="t"), "unknown hears='t': one of c_noise, log_snr"),
        (lambda: raw(nn.Identity(), PATHS["Cosine"], pinned="no"), "unknown pinned='no': one of clean, noised"),
        (lambda: Denoiser(nn.Identity(), PATHS["Cosine"], "trig"), 'predict="trig" needs a Trig path, not Cosine'),
        (lambda: Denoiser(nn.Identity(), PATHS["Cosine"], "edm"), 'predict="edm" needs sigma_data'),
        (lambda: Denoiser(nn.Identity(), PATHS["Cosine"], "edm", sigma_data=0.0), "a positive number; got 0.0"),
        (lambda: Denoiser(nn.Identity(), PATHS["Cosine"], "edm", sigma_data=math.nan), "a positive number; got nan"),
        (
            lambda: Denoiser(nn.Identity(), Trig(0.5), "trig", sigma_data=0.7),
            "sigma_data=0.7 contradicts the path's",
        ),
    ],
)
def test_denoisers_that_make_no_sense(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        (torch.zeros(3, 1), "the network returned (3, 1) for a state of shape (3, 2)"),
        (torch.zeros(3), "the network returned (3,) for a state of shape (3, 2)"),
        ({"a": torch.zeros(3, 2)}, "the network returned dict for a state of shape (3, 2)"),
        (None, "the network returned NoneType"),
    ],
)
def test_outputs_of_another_shape(out: Any, expected: str) -> None:
    for denoiser in (Denoiser(lambda x, told: out, PATHS["Trig"]), Bare(lambda x, t: out, PATHS["Trig"], "noised")):
        with pytest.raises(ValueError, match="the network returned") as raised:
            denoiser(torch.zeros(3, 2), 0.5)
        assert expected in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "out", [torch.zeros(3, 2), {"a": torch.zeros(3, 2)}, {"a": torch.zeros(3, 2), "b": torch.zeros(3, 1)}]
)
def test_outputs_of_other_fields(out: Any) -> None:
    x_t = {"a": torch.zeros(3, 2), "b": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match="the network") as raised:
        Denoiser(lambda x, told: out, PATHS["Trig"])(x_t, 0.5)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [lambda d: d, lambda d: Wrapped(d, doubled), lambda d: Bare(d, d.path, d.pinned)])
def test_times_outside_the_path(make: Callable[[Any], Any]) -> None:
    denoiser = make(Denoiser(affine_net, PATHS["Rectified"]))
    for t in (-0.1, 1.5, math.nan, torch.tensor([0.5, 2.0])):
        with pytest.raises(ValueError, match="lies outside the path Rectified"):
            denoiser(torch.zeros(2, 2), t)


def test_half_precision_of_the_network_does_not_round_the_coefficients() -> None:
    """Under autocast f comes in bf16. A level given as a tensor and as a number then still mean the same."""
    path = kedge_paths.VariancePreserving()

    def half(x: Tensor, told: Tensor) -> Tensor:
        return (0.1 * x).bfloat16()

    D, x_t = Denoiser(half, path, "eps"), torch.ones(2, 3)
    torch.testing.assert_close(D(x_t, torch.full((2,), 0.9)), D(x_t, 0.9), rtol=1e-5, atol=0)
    assert D(x_t, 0.9).dtype == torch.float32


def test_a_path_is_a_path() -> None:
    with pytest.raises(TypeError, match=r"^a denoiser needs a path from kedge.paths, such as Trig\(\), not 'vp'$"):
        inspect.unwrap(Denoiser.__init__)(object.__new__(Denoiser), nn.Identity(), "vp")
