"""PTQ4DM: a denoiser in few bits, with static scales that are set on the states of its own walk, at steps drawn from a
normal law that leans to the clean end.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor, nn

from kedge import Cond, Denoiser, Noise, Walk, grids, hooks, solvers
from kedge.distill import (
    AffineCodes,
    Asked,
    NormalSteps,
    QuantisedLayer,
    asked_on_walks,
    in_integers,
    integers,
    least_squares,
    quantised,
    requantised,
)
from kedge.distill.affine import channel_codes
from kedge.distill.quantise import saved_codes
from kedge.exact import GaussianMixture
from kedge.fit import DenoisingLoss, proposals, weightings
from kedge.nets import MLP, UNet1D
from kedge.paths import Cosine, VariancePreserving
from kedge.train import AdamW, Batches, Trainer

pytestmark = pytest.mark.system

integers.torchao()  # seconds of loading, before a test's time is taken

f64 = torch.float64


# Codes


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_has_a_code_near_it_is_off_by_half_a_step_at_most(bits: int) -> None:
    codes = AffineCodes.between(-1.3, 2.9, bits)
    low, high = codes.ends
    assert max(abs(low + 1.3), abs(high - 2.9)) <= codes.scale / 2 + 1e-6
    x = torch.linspace(low, high, 4001, dtype=f64)
    assert float((codes(x) - x).abs().max()) <= codes.scale / 2 + 1e-6  # torch keeps s in float32
    assert len(codes(x).unique()) == 2**bits
    assert codes(torch.zeros(1, dtype=f64)) == 0
    assert codes(torch.tensor([low - 1, high + 1], dtype=f64)).tolist() == pytest.approx([low, high], abs=1e-6)


def gaussian_loss(scale: float, zero: float | int, highest: int) -> float:
    """`E (x - Q(x))^2` of a standard normal, by the integrals over the cells."""
    centres = [scale * (q - zero) for q in range(highest + 1)]
    edges = [-math.inf, *(scale * (q - zero + 0.5) for q in range(highest)), math.inf]
    total = 0.0
    for c, a, b in zip(centres, edges, edges[1:], strict=False):
        density = [0.0 if math.isinf(e) else float(norm.pdf(e)) for e in (a, b)]
        edge = [0.0 if math.isinf(e) else e for e in (a, b)]
        mass = float(norm.cdf(b) - norm.cdf(a))
        first, second = density[0] - density[1], mass + edge[0] * density[0] - edge[1] * density[1]
        total += second - 2 * c * first + c * c * mass
    return total


def least_of(zero: float | int, highest: int) -> Any:
    """The best scale."""
    return minimize_scalar(lambda s: gaussian_loss(s, zero, highest), bounds=(0.01, 1.2), method="bounded")


def normals(count: int) -> Tensor:
    """The quantiles of a standard normal."""
    return torch.special.ndtri((torch.arange(count, dtype=f64) + 0.5) / count)


def test_the_oracle_knows_the_published_optimum() -> None:
    """Max, "Quantizing for minimum distortion", 1960, table II: sixteen even steps of a normal are 0.3352 wide, and
    lose 0.01154.
    """
    best = least_of(7.5, 15)
    assert best.x == pytest.approx(0.3352, abs=1e-4)
    assert best.fun == pytest.approx(0.01154, abs=1e-5)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_the_search_finds_the_least_squares_of_a_normal(bits: int) -> None:
    """Against the optimum over scale and zero in closed form: what is lost is within half a percent of the least."""
    highest = 2**bits - 1
    best = least_of(highest // 2, highest).fun
    found = least_squares(normals(1 << 14), bits)
    assert gaussian_loss(found.scale, found.zero, highest) < 1.005 * best
    widest = AffineCodes.between(-4.0, 4.0, bits)
    assert gaussian_loss(widest.scale, widest.zero, highest) > 1.2 * best


def test_the_two_ends_are_found_apart() -> None:
    """Of what an activation leaves: a tail on one side alone."""
    x = nn.functional.silu(2 * normals(1 << 13))
    low, high = least_squares(x, 6).ends
    assert -0.4 < low < -0.2
    assert 3.0 < high < float(x.max())


def test_the_weights_have_a_scale_for_each_channel() -> None:
    """None could be better, over a fine grid; and one scale for all would be far worse."""
    weight = torch.stack(
        [normals(500)[torch.randperm(500, generator=torch.Generator().manual_seed(i))] for i in range(4)]
    )
    weight = weight * torch.tensor([[1e-3], [0.1], [1.0], [30.0]], dtype=f64)
    codes, scale = channel_codes(weight, 4)
    assert codes.dtype == torch.int8
    assert int(codes.abs().max()) <= 7
    lost = (codes * scale[:, None] - weight).square().mean(1)
    for row, own in zip(weight, lost, strict=True):
        tried = torch.linspace(0.005, 1, 1000, dtype=f64)[:, None] * row.abs().max() / 7
        least = ((row / tried).round().clamp(-7, 7) * tried - row).square().mean(1).min()
        assert float(own) < 1.02 * float(least)
    single, one = channel_codes(weight.reshape(1, -1), 4)
    assert float((single * one - weight.reshape(1, -1)).reshape(4, -1)[:2].square().sum()) > 100 * float(lost[:2].sum())
    flipped, same = channel_codes(weight.T.contiguous(), 4, axis=1)
    assert torch.equal(flipped.T, codes)
    assert torch.equal(same, scale)
    assert channel_codes(torch.zeros(2, 3))[0].abs().max() == 0


# What is listened to


class Counting:
    """A denoiser that says how often it has been asked."""

    path = VariancePreserving()

    def __call__(self, x: Tensor, t: Any, cond: Any = None) -> Tensor:
        return 0 * x + (0 if cond is None else cond.fields["c"])


def test_steps_follow_a_clipped_normal_that_leans_to_the_clean_end() -> None:
    """Their counts against the law's own, within four standard errors; the first of the evaluations is noise."""
    count, of = 20_000, 11
    at = NormalSteps().draw(count, of, Noise.of(0, count))
    t = (of - 1 - at).double() / (of - 1)
    edges = norm.cdf((torch.arange(of - 1) + 0.5) / (of - 1), 0.4, 0.4)
    p = torch.diff(torch.tensor([0.0, *edges, 1.0], dtype=f64))
    found = torch.bincount((of - 1 - at), minlength=of).double() / count
    assert bool(((found - p).abs() < 4 * (p * (1 - p) / count).sqrt()).all())
    assert float(t.mean()) < 0.5
    assert NormalSteps(0.0, 0.0).draw(2, 5, Noise.of(0, 2)).tolist() == [4, 4]
    assert NormalSteps(1.0, 0.0).draw(2, 5, Noise.of(0, 2)).tolist() == [0, 0]


def test_each_state_is_of_its_own_walk_at_its_own_level() -> None:
    """Two walks of six steps, heard together: every state is found again in a record of them."""
    denoiser, cond = Counting(), Cond.of(c=torch.arange(8.0)[:, None])
    heard: list[list[tuple[Tensor, float]]] = []

    def walk(by: Any) -> None:
        for first in (0, 4):
            record = hooks.Record()
            some = cond.take(torch.arange(first, first + 4))
            x = denoiser.path.prior((4, 1), Noise.of(first, 4)).float()
            Walk(by, solvers.DDIM(), grids.Uniform(6), [record]).run(x, some)
            heard.append([(state.x, float(state.t)) for state in record.states])  # type: ignore[arg-type]

    asked = asked_on_walks(denoiser, walk, seed=1)
    assert asked.x.shape == (8, 1)
    assert asked.cond is not None
    assert torch.equal(asked.cond.fields["c"], cond.fields["c"])
    assert len(asked.t.unique()) > 2
    for i in range(8):
        levels = {t: float(x[i % 4, 0]) for x, t in heard[i // 4]}
        assert float(asked.x[i, 0]) == levels[float(asked.t[i])]


# Layers


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    made = nn.Linear(6, 5), nn.Conv1d(6, 5, 3, stride=2, padding=1), nn.ConvTranspose1d(6, 5, 4, stride=2, padding=1)
    return [layer.requires_grad_(False) for layer in made]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_layer_computes_what_integers_would(kind: int) -> None:
    """Products and sums of codes in int64, scaled at the end; what a convolution is padded with is the code of zero."""
    layer = layers()[kind].double()
    x = torch.randn(4, 6, 8, dtype=f64, generator=torch.Generator().manual_seed(1)) + 0.5
    x = x.transpose(1, 2) if kind == 0 else x
    codes = least_squares(x, 8)
    made = QuantisedLayer(layer, codes)
    q = (x / codes.scale).round().long().add(codes.zero).clamp(0, 255) - codes.zero
    w = made.weight.long()
    rows = q if kind == 0 else windows(q, kind)
    w = w if kind == 0 else w.flatten(1) if kind == 1 else w.transpose(0, 1).flatten(1)
    wanted = (rows @ w.T) * codes.scale * made.weight_scale + layer.bias  # type: ignore[operator]
    found = made(x) if kind == 0 else made(x).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)  # torch keeps s in float32
    assert float((found - (layer(x) if kind == 0 else layer(x).transpose(1, 2))).abs().max()) < 0.05


def windows(q: Tensor, kind: int) -> Tensor:
    """What each output of the two convolutions above looks at, `[B, L, in * k]`."""
    if kind == 1:
        return nn.functional.pad(q, (1, 1)).unfold(2, 3, 2).transpose(1, 2).flatten(2)
    spread = q.new_zeros(*q.shape[:2], 2 * q.shape[2] - 1)
    spread[:, :, ::2] = q
    return nn.functional.pad(spread, (2, 2)).unfold(2, 4, 1).flip(3).transpose(1, 2).flatten(2)


def unet() -> Denoiser:
    torch.manual_seed(0)
    net = UNet1D(3, width=8, mults=(1, 2))
    return Denoiser(net, Cosine(), "velocity").eval().requires_grad_(False)


def asked_of_unet() -> Asked:
    noise = Noise.of(0, 24)
    x = noise.normal((24, 8, 3), 0, dtype=torch.float32)
    return Asked(x, 0.05 + 0.9 * noise.uniform((24,), 1))


def test_torchao_multiplies_the_same_codes() -> None:
    """Layer by layer, on what each is given: products of int8 against floats that stand for them."""
    asked = asked_of_unet()
    codes = quantised(unet(), asked)
    made = in_integers(codes)
    given: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in codes.named_modules():
        if isinstance(module, QuantisedLayer):
            module.register_forward_hook(lambda _, x, y, name=name: given.update({name: (x[0], y)}))
    codes.estimate(asked.x, asked.t)
    assert {type(codes.get_submodule(name)).__name__ for name in given} == {"QuantisedLayer"}
    assert {codes.get_submodule(name).kind for name in given} == {nn.Linear, nn.Conv1d, nn.ConvTranspose1d}
    for name, (x, y) in given.items():
        layer = made.get_submodule(name)
        assert layer.weight.qdata.dtype == torch.int8  # type: ignore[union-attr]
        torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-4 * float(y.abs().max()))


def test_what_was_saved_comes_back_and_the_ends_keep_eight_bits() -> None:
    asked, whole = asked_of_unet(), unet()
    before = whole.estimate(asked.x, asked.t).x
    made = quantised(whole, asked, 4)
    assert torch.equal(whole.estimate(asked.x, asked.t).x, before)  # type: ignore[arg-type]
    bits = {name: codes.bits for name, codes in saved_codes(made.state_dict()).items()}
    assert {name for name, own in bits.items() if own == 8} == {"net.down.0.first.first.0", "net.leave"}
    assert set(bits.values()) == {4, 8}
    again = requantised(unet(), made.state_dict())
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.estimate(asked.x, asked.t).x, made.estimate(asked.x, asked.t).x)  # type: ignore[arg-type]


# A trained denoiser of a mixture, in few bits


ANGLE = torch.arange(6) * 2 * math.pi / 6
RING = 1.2 * torch.stack([ANGLE.cos(), ANGLE.sin()], 1).to(f64)
LAW = GaussianMixture([0.3, 0.1, 0.2, 0.1, 0.2, 0.1], RING, [0.01] * 6)
PATH, COUNT, SAMPLES, STEPS = VariancePreserving(), 1500, 1024, 250
DIRECTIONS = torch.stack([f(torch.arange(64) * math.pi / 64) for f in (torch.cos, torch.sin)])


@cache
def trained() -> Denoiser:
    """It predicts eps, as DDPM does."""
    torch.manual_seed(0)
    denoiser = Denoiser(MLP(2, width=64, depth=2, embed=32, expansion=2), PATH, "eps")
    loss = DenoisingLoss(denoiser, proposals.Uniform(), weightings.Uniform(of="eps"))
    data = Batches(LAW.sample(4000, seeds=1, dtype=torch.float32), 256)
    Trainer([loss.part(AdamW(3e-3, warmup=20, decay="cosine"), shadows=())], data, STEPS, progress=False).train()
    return denoiser.eval().requires_grad_(False)


def walked(denoiser: Any, count: int, seed: int, *held: hooks.Threshold) -> Tensor:
    """Twenty steps of DDIM."""
    x = PATH.prior((count, 2), Noise.of(seed, count)).float()
    return Walk(denoiser, solvers.DDIM(), grids.Uniform(20), held).run(x).x  # type: ignore[return-value]


def calibration(way: str, seed: int) -> Asked:
    """By NDTC; on its own walk at the last step or the first alone; on data as they are; on data noised outright."""
    steps = {"walk": NormalSteps(), "clean": NormalSteps(0.0, 0.0), "noise": NormalSteps(1.0, 0.0)}.get(way)
    if steps is not None:
        return asked_on_walks(trained(), lambda by: walked(by, SAMPLES, 20 + seed), steps, seed)
    x, noise = LAW.sample(SAMPLES, seeds=40 + seed, dtype=torch.float32), Noise.of(60 + seed, SAMPLES)
    if way == "raw":
        return Asked(x, torch.full((SAMPLES,), PATH.t_min, dtype=f64))
    return Asked.noised(PATH, x, proposals.Uniform().draw(PATH, x, noise, 0))


def sliced(x: Tensor, y: Tensor) -> float:
    """The Wasserstein distance of second order, averaged over directions."""
    return float(((x @ DIRECTIONS).sort(0).values - (y @ DIRECTIONS).sort(0).values).square().mean().sqrt())


def eps_error(denoiser: Denoiser) -> float:
    """The mean squared error of eps at held out data, averaged over times."""
    x = LAW.sample(4 * COUNT, seeds=11, dtype=torch.float32)
    draw = proposals.Uniform().draw(PATH, x, Noise.of(12, 4 * COUNT), 0)
    asked = Asked.noised(PATH, x, draw)
    alpha, sigma = (f(draw.t)[:, None].float() for f in (PATH.alpha, PATH.sigma))
    eps = (asked.x - alpha * denoiser.estimate(asked.x, asked.t).x) / sigma
    assert isinstance(draw.z, Tensor)
    return float((eps - draw.z).square().mean())


class Found(NamedTuple):
    """Sliced W2 of samples to the law, from a plain walk and from one whose estimates are held in the data's range, as
    DDPM's are; and the error of eps.
    """

    plain: float
    held: float
    eps: float


@cache
def found(way: str, bits: int) -> Found:
    """Of the floats, or of a way to calibrate."""
    made = trained() if way == "float" else quantised(trained(), calibration(way, 0), bits)
    law = LAW.sample(COUNT, seeds=9, dtype=torch.float32)
    plain, held = walked(made, COUNT, 5), walked(made, COUNT, 5, hooks.Threshold(2.0))
    return Found(sliced(plain, law), sliced(held, law), eps_error(made))


@pytest.mark.slow
def test_eight_bits_are_as_good_as_floats() -> None:
    """Within five percent, in samples and in eps. (Without the hold, a sample of a thousand leaves the range that has
    codes at the noise end, and the path enlarges what it is off by.)
    """
    whole, own = found("float", 32), found("walk", 8)
    assert own.held < 1.05 * whole.held
    assert own.eps < 1.05 * whole.eps


@pytest.mark.slow
@pytest.mark.parametrize("bits", [6, 4])
def test_scales_from_data_as_they_are_are_worse(bits: int) -> None:
    """By samples and by eps."""
    own, other = found("walk", bits), found("raw", bits)
    assert own.held < 0.95 * other.held
    assert own.eps < 0.95 * other.eps


@pytest.mark.slow
@pytest.mark.parametrize("bits", [6, 4])
@pytest.mark.parametrize("way", ["noise", "raw", "noised"])
def test_scales_that_do_not_know_the_walk_lose_samples(way: str, bits: int) -> None:
    """Of a plain walk, which meets pure noise first: samples drift off by multiples."""
    assert found("walk", bits).plain < 0.5 * found(way, bits).plain
