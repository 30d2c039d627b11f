"""What every network promises, for every network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kedge.cond import Cond
from kedge.nets import MLP, ConvNet, DiT1D, UNet1D
from kedge.noise import Noise

B, T, D = 3, 16, 4  # the coarsest resolution below has 4 tokens: enough for every tap of a kernel of 5
SMALL: dict[str, Callable[..., nn.Module]] = {
    "MLP": lambda **options: MLP((T, D), 32, 2, embed=16, **options),
    "MLP-each": lambda **options: MLP((T, D), 32, 2, embed=16, levels="each", **options),
    "DiT1D": lambda **options: DiT1D(D, 32, 2, 2, embed=16, **options),
    "UNet1D": lambda **options: UNet1D(D, 16, (1, 2, 2), **options),
    "ConvNet": lambda **options: ConvNet(D, 16, (1, 2), **options),
    "UNet1D-attention": lambda **options: UNet1D(D, 16, (1, 2), attention=True, **options),
}
FIELDS = {"goal": 2, "value": 1}
every = pytest.mark.parametrize("name", SMALL)


def made(name: str, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    """A network off its start: every parameter is random, so nothing hides behind a zero."""
    torch.manual_seed(seed)
    net = SMALL[name](**options).to(dtype).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


def inputs(batch: int = B, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(batch, T, D, generator=generator, dtype=torch.float64)
    t = torch.rand(batch, generator=generator, dtype=torch.float64) * 3.6 - 2
    return x.to(dtype), t.to(dtype)


def condition(batch: int = B, dtype: torch.dtype = torch.float64) -> Cond:
    generator = torch.Generator().manual_seed(8)
    drawn = {name: torch.randn(batch, d, generator=generator, dtype=dtype) for name, d in FIELDS.items()}
    return Cond.of(**drawn)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_has_the_shape_and_type_of_x(name: str, dtype: torch.dtype) -> None:
    net, (x, t) = made(name, dtype=dtype), inputs(dtype=dtype)
    for level in (t, t[:, None].expand(B, T)):
        y = net(x, level)
        assert y.shape == x.shape
        assert y.dtype == dtype
        assert y.isfinite().all()
        assert y.is_contiguous()


@every
def test_float32_agrees_with_float64(name: str) -> None:
    x, t = inputs()
    wide = made(name, cond=FIELDS)
    expected = wide(x, t, condition())
    narrow = wide.float()
    y = narrow(x.float(), t, condition(dtype=torch.float32))  # t may come in float64
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-4)


@every
def test_equal_levels_for_all_tokens_are_one_level(name: str) -> None:
    net, (x, t) = made(name, cond=FIELDS), inputs()
    one, each = net(x, t, condition()), net(x, t[:, None].expand(B, T), condition())
    torch.testing.assert_close(each, one, rtol=0, atol=1e-12)


@every
def test_every_level_is_heard(name: str) -> None:
    net, (x, t) = made(name), inputs()
    levels = t[:, None].repeat(1, T)
    before = net(x, levels)
    for token in range(T):
        other = levels.clone()
        other[:, token] += 0.5
        assert (net(x, other) - before).abs().amax((1, 2)).min() > 1e-5


@every
def test_samples_do_not_touch_each_other(name: str) -> None:
    net, (x, t) = made(name, cond=FIELDS), inputs()
    cond = condition()
    whole = net(x, t, cond)
    for i in range(B):
        alone = net(x[i : i + 1], t[i : i + 1], cond.take(torch.tensor([i])))
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=1e-12)


@every
def test_gradient_reaches_every_entry_of_every_parameter(name: str) -> None:
    net, (x, t) = made(name, cond=FIELDS), inputs(8)
    cond = condition(8).without("goal")
    cond = Cond(cond.fields, {"goal": torch.arange(8) % 2 == 0, "value": torch.arange(8) % 3 == 0})
    net(x, t, cond).pow(2).sum().backward()
    for path, parameter in net.named_parameters():
        grad = parameter.grad
        assert grad is not None, path
        if path.endswith("qkv.bias"):  # the softmax does not see what is added to all keys alike
            queries, keys, values = grad.chunk(3)
            assert keys.abs().max() < 1e-10 * grad.abs().max()
            grad = torch.cat([queries, values])
        assert (grad.abs() > 1e-9 * grad.abs().max()).all(), path


@every
def test_a_null_field_is_neither_heard_nor_different_from_no_condition(name: str) -> None:
    net, (x, t) = made(name, cond=FIELDS), inputs()
    cond = condition()
    unconditional = net(x, t)
    torch.testing.assert_close(net(x, t, cond.without()), unconditional, rtol=0, atol=1e-12)
    mixed = Cond(cond.fields, {field: torch.tensor([True, False, True]) for field in FIELDS})
    y, kept = net(x, t, mixed), net(x, t, cond)
    torch.testing.assert_close(y[1], unconditional[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(y[[0, 2]], kept[[0, 2]], rtol=0, atol=1e-12)
    assert (kept - unconditional).abs().amax((1, 2)).min() > 1e-4


@every
def test_each_field_is_heard_by_its_name(name: str) -> None:
    net, (x, t) = made(name, cond=FIELDS), inputs()
    cond = condition()
    whole = net(x, t, cond)
    backwards = Cond.of(**{field: cond.fields[field] for field in reversed(FIELDS)})
    torch.testing.assert_close(net(x, t, backwards), whole, rtol=0, atol=0)
    for field in FIELDS:
        assert (net(x, t, cond.without(field)) - whole).abs().max() > 1e-4


@every
def test_a_field_may_have_any_name(name: str) -> None:
    names = {"type": 1, "keys": 2, "forward": 1, "training": 1}
    cond = Cond.of(**{field: torch.ones(B, size, dtype=torch.float64) for field, size in names.items()})
    assert made(name, cond=names)(*inputs(), cond).isfinite().all()


@every
def test_construction_follows_torchs_seed(name: str) -> None:
    def state(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return SMALL[name](cond=FIELDS, features="fourier").state_dict()

    first, again, other = state(0), state(0), state(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["hears.level.0.w"], other["hears.level.0.w"])


@every
def test_state_carries_all_that_the_output_depends_on(name: str) -> None:
    source, target = (made(name, seed, features="fourier", cond=FIELDS) for seed in (0, 1))
    x, t = inputs()
    expected = source(x, t, condition())
    assert (target(x, t, condition()) - expected).abs().max() > 1e-4
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x, t, condition()), expected)


@every
def test_under_autocast_it_computes_in_bfloat16_and_stays_close(name: str) -> None:
    net, (x, t) = made(name, dtype=torch.float32, cond=FIELDS), inputs(dtype=torch.float32)
    cond = condition(dtype=torch.float32)
    expected = net(x, t, cond)
    for level in (t, t[:, None].expand(B, T)):
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x, level, cond)
        assert y.dtype == torch.bfloat16
        error = (y.float() - expected).pow(2).mean().sqrt() / expected.std()
        assert error < 0.05  # some dozen layers, each rounding to 1/256


@every
def test_no_tensor_is_made_on_a_device_of_its_own(name: str) -> None:
    net = made(name, cond=FIELDS).to("meta")
    x, t = (value.to("meta") for value in inputs())
    cond = condition()
    cond = Cond(*({key: value.to("meta") for key, value in part.items()} for part in (cond.fields, cond.keep)))
    for level in (t, t[:, None].expand(B, T)):
        assert net(x, level, cond).device.type == "meta"
        assert net(x, level).device.type == "meta"


@every
def test_nothing_is_kept_between_calls(name: str) -> None:
    net, (x, t) = made(name), inputs(5)
    before = set(vars(net)), {key: value.clone() for key, value in net.state_dict().items()}
    first = net(x[:3], t[:3])
    net(x, t[:, None].expand(5, T))
    assert torch.equal(net(x[:3], t[:3]), first)
    assert before[0] == set(vars(net))
    assert all(torch.equal(before[1][key], value) for key, value in net.state_dict().items())


@every
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own forward mode
def test_forward_mode_and_second_derivatives_agree_with_differences(name: str) -> None:
    """What consistency training (jvp in x and t) and gradient guides inside a loss (a gradient of a gradient) take.
    Torch's fused attention has neither; its plain one has both.
    """
    net, (x, t) = made(name), inputs()
    v, s, h = torch.randn_like(x), torch.ones_like(t), 1e-5

    def slope(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(net(x, t).sin().sum(), x)[0]

    with sdpa_kernel(SDPBackend.MATH):
        forward = torch.func.jvp(lambda x, t: net(x, t), (x, t), (v, s))[1]
        difference = (net(x + h * v, t + h * s) - net(x - h * v, t - h * s)) / (2 * h)
        torch.testing.assert_close(forward, difference, rtol=1e-5, atol=1e-5)
        y = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(net(y, t).sin().sum(), y, create_graph=True)
        (second,) = torch.autograd.grad((first * v).sum(), y)
        torch.testing.assert_close(second, (slope(x + h * v) - slope(x - h * v)) / (2 * h), rtol=1e-4, atol=1e-4)


@every
def test_its_start_blocks_no_gradient_for_long(name: str) -> None:
    """Layers that start at zero hide what is below them; after three steps nothing may be hidden any more, and the
    error on a fixed batch has fallen.
    """
    torch.manual_seed(0)
    net = SMALL[name](cond=FIELDS)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    x, t = inputs(8, dtype=torch.float32)
    cond = condition(8, dtype=torch.float32).drop({"goal": 0.5, "value": 0.5}, Noise.of(0, 8), step=0)
    errors = []
    for _ in range(4):
        error = (net(x, t, cond) - x.sin()).pow(2).mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[3] < errors[0]
    for path, parameter in net.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().max() > 1e-10, path


WRONG: list[tuple[Callable[[Tensor, Tensor], tuple[Any, ...]], str]] = [
    (lambda x, t: (x[:, 0], t), r"x must have shape \[B, (16|T), 4\], got \[3, 4\]"),
    (lambda x, t: (x[..., :3], t), r"x must have shape \[B, (16|T), 4\], got \[3, 16, 3\]"),
    (lambda x, t: (x, t[:2]), r"t must have shape \[3\] or \[3, 16\] for x of shape \[3, 16, 4\], got \[2\]"),
    (lambda x, t: (x, t[0]), r"t must have shape .* got \[\]"),
    (lambda x, t: (x, t[:, None]), r"t must have shape .* got \[3, 1\]"),
    (lambda x, t: (x, t.long()), "t must be floating, got torch.int64"),
    (lambda x, t: (x, t, Cond.of(goal=torch.zeros(3, 2))), "fields 'goal', 'value', but cond has 'goal'"),
    (
        lambda x, t: (x, t, Cond.of(goal=torch.zeros(3, 2), gaol=torch.zeros(3, 1))),
        "fields 'goal', 'value', but cond has 'goal', 'gaol'",
    ),
    (
        lambda x, t: (x, t, Cond.of(goal=torch.zeros(3, 5), value=torch.zeros(3, 1))),
        r"field 'goal' must have shape \[3, 2\], got \[3, 5\]",
    ),
    (
        lambda x, t: (x, t, Cond.of(goal=torch.zeros(1, 2), value=torch.zeros(1, 1))),
        r"field 'goal' must have shape \[3, 2\], got \[1, 2\]",
    ),
]


@every
@pytest.mark.parametrize(("call", "says"), WRONG)
def test_wrong_input_is_said_in_one_line(name: str, call: Callable[..., tuple[Any, ...]], says: str) -> None:
    net = made(name, cond=FIELDS)
    with pytest.raises((ValueError, TypeError), match=f"^{name.split('-')[0]}: .*{says}") as error:
        net(*call(*inputs()))
    assert "\n" not in str(error.value)


@every
def test_a_condition_for_a_network_without_fields_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="built without condition fields, but cond has 'goal', 'value'"):
        made(name)(*inputs(), condition())


def built(**wrong: Any) -> list[Callable[[], nn.Module]]:
    return [lambda make=make: make(**wrong) for make in SMALL.values()]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        *((make, "unknown features 'cosine'; choose one of sinusoidal, fourier") for make in built(features="cosine")),
        *((make, "width of condition field 'goal' must be at least 1, got 0") for make in built(cond={"goal": 0})),
        (lambda: MLP(0), r"MLP: shape\[0\] must be at least 1, got 0"),
        (lambda: MLP(()), "MLP: axes_of_shape must be at least 1"),
        (lambda: MLP(3, depth=0), "MLP: depth must be at least 1, got 0"),
        (lambda: MLP(3, embed=7), "sinusoidal: the number of features must be even and at least 2, got 7"),
        (lambda: MLP(3, activation="swish"), "MLP: unknown activation 'swish'; choose one of mish, silu"),
        (lambda: MLP(3, levels="each"), r"levels='each' needs tokens, a shape like \(T, D\), got shape \(3,\)"),
        (lambda: DiT1D(3, 32, heads=3), "DiT1D: width 32 is not a multiple of heads 3"),
        (lambda: DiT1D(3, 32, embed=12), "DiT1D: embed must be a multiple of 8, got 12"),
        (lambda: DiT1D(3, 33, heads=3), "positions: the number of features must be even and at least 2, got 33"),
        (lambda: UNet1D(3, 20), "UNet1D: width must be a multiple of 8 .* got 20"),
        (lambda: MLP(3, out=0), "MLP: out must be at least 1, got 0"),
        (lambda: DiT1D(3, 32, out=0), "DiT1D: out must be at least 1, got 0"),
        (lambda: UNet1D(3, 16, out=0), "UNet1D: out must be at least 1, got 0"),
        (lambda: ConvNet(3, 16, out=0), "ConvNet: out must be at least 1, got 0"),
        (lambda: ConvNet(3, 20), "ConvNet: width must be a multiple of 8 .* got 20"),
        (lambda: ConvNet(3, 16, ()), "ConvNet: number_of_dilations must be at least 1, got 0"),
        (lambda: ConvNet(3, 16, (1, 0)), r"ConvNet: dilations\[1\] must be at least 1, got 0"),
        (lambda: ConvNet(3, 16, kernel=4), "ConvNet: kernel must be odd, .* got 4"),
        (lambda: UNet1D(3, 16, ()), "UNet1D: number_of_mults must be at least 1, got 0"),
        (lambda: UNet1D(3, 16, (1, 0)), r"UNet1D: mults\[1\] must be at least 1, got 0"),
    ],
)
def test_wrong_construction_is_said_in_one_line(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        make()
    assert "\n" not in str(error.value)
