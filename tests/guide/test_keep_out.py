"""Plans that are kept out of a box: how many points are left in it, what the way round looks like, whose units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kedge import grids, sample, solvers
from kedge.data import Normaliser
from kedge.errors import InputError
from kedge.exact import GaussianMixture
from kedge.guide import KeepOut, keep_out
from kedge.paths import Trig
from kedge.plan import Planner
from kedge.plan.proposer import candidate_seeds
from kedge.walk.grids import Rho
from kedge.walk.solvers import DPMSolverPP

H, f64 = 16, torch.float64
BOX = (-0.36, -0.5, 0.36, 0.25)
UNITS = Normaliser(torch.tensor([5.0, -3.0, 0.0, 0.0]), torch.tensor([2.0, 2.0, 1.0, 1.0]))


def law() -> GaussianMixture:
    """Smooth ways from left to right past the middle, where the box is: a line plus a bow, in normalised units. Their
    last two dimensions are velocities that hang together with the points.
    """
    s = torch.linspace(-1, 1, H, dtype=f64)
    mean = torch.stack([1.5 * s, 0 * s, 0 * s + 1.5, 0 * s], 1)
    bows = [torch.cos(s * torch.pi / 2), torch.sin(s * torch.pi), torch.ones_like(s)]
    modes = [torch.stack([0 * b, b, 0 * b, torch.gradient(b)[0]], 1).flatten() for b in bows]
    covariance = sum(w * torch.outer(m, m) for w, m in zip((0.5, 0.05, 0.02), modes, strict=True))
    return GaussianMixture([1.0], mean[None], (covariance + 1e-4 * torch.eye(4 * H, dtype=f64))[None])


def planner(guides: tuple[Any, ...] = (), normaliser: Normaliser = UNITS) -> Planner:
    return Planner(
        denoiser=law().denoiser(Trig(1.0)), normaliser=normaliser, horizon=H, stride=1, solver=DPMSolverPP(order=2),
        grid=Rho(5, 3.0, 0.1, 10.0), dim=4, guides=guides,
    )  # fmt: skip


def start() -> Tensor:
    return UNITS.undo(law().mean[:1].float())


def plans(*guides: Any) -> Tensor:
    return planner(guides).propose(start(), candidate_seeds(np.arange(1), 0, 300))[0]


def raw_box() -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = BOX
    return 5 + 2 * x0, -3 + 2 * y0, 5 + 2 * x1, -3 + 2 * y1


def inside(points: Tensor, box: tuple[float, ...]) -> Tensor:
    x0, y0, x1, y1 = box
    return (points[..., 0] > x0) & (points[..., 0] < x1) & (points[..., 1] > y0) & (points[..., 1] < y1)


def middle(points: Tensor, box: tuple[float, ...]) -> Tensor:
    """Whether a way goes straight through: a segment's points, sampled, lie in the box."""
    w = torch.linspace(0, 1, 11)[:, None]
    between = points[:, :-1, None] + w * (points[:, 1:] - points[:, :-1])[:, :, None]
    return inside(between, box).flatten(1).any(1)


def test_hardly_a_point_is_left_in_the_box() -> None:
    """Of the points that may move: more than a fifth of those in the middle third before, less than 2% after."""
    free, kept = plans(), plans(keep_out(raw_box(), margin=0.2))
    third = slice(H // 3, H - H // 3)
    assert inside(free[:, third], raw_box()).float().mean() > 0.2
    assert inside(kept, raw_box()).float().mean() < 0.001
    assert middle(kept[..., :2], raw_box()).float().mean() < 0.02, "nor do they jump across, or cut its corners"
    assert middle(free[..., :2], raw_box()).float().mean() > 0.3
    torch.testing.assert_close(kept[:, 0], start().expand(300, -1), rtol=0, atol=1e-5)


def test_ways_round_are_as_smooth_as_the_model() -> None:
    """What is moved is moved together: neighbours do not part, and both sides are still taken."""
    free, kept = plans(), plans(keep_out(raw_box(), margin=0.1))

    def kink(x: Tensor) -> Tensor:
        return torch.diff(x[..., :2], n=2, dim=1).abs().amax((1, 2))

    moved = (kept - free).abs().amax((1, 2)) > 0.05
    assert moved.float().mean() > 0.3
    assert kink(kept).quantile(0.9) < 2.5 * kink(free).quantile(0.9)
    middles = kept[:, H // 2, 1] + 3
    assert (middles > 0.5).any()
    assert (middles < -1.0).any()


def test_what_hangs_together_moves_along_and_all_are_out() -> None:
    """In one estimate: points beside the box, which have no need to, move the same way; none is left in the box."""
    path = Trig(1.0)
    exact = law().denoiser(path)
    x_t = path.perturb(law().sample(200, seeds=0), 0.5, torch.randn(200, H, 4, dtype=f64))
    before, after = exact(x_t, 0.5), keep_out(BOX, margin=0.05).on(exact)(x_t, 0.5)
    x0, y0, x1, y1 = BOX
    wider = (x0 - 0.05 + 1e-9, y0 - 0.05 + 1e-9, x1 + 0.05 - 1e-9, y1 + 0.05 - 1e-9)
    was = inside(before, wider)
    assert was.any(1).float().mean() > 0.3
    assert not inside(after, wider).any()
    moved = (after - before)[..., 1]
    beside = was.any(1, keepdim=True) & ~was
    way = (moved * was).sum(1, keepdim=True).sign()
    assert (moved * way)[beside].mean() > 0.05
    assert moved[~was.any(1)].abs().max() == 0


def test_alone_points_inside_leave_and_nobody_asks_the_way_back() -> None:
    """By the same side as together; what lies outside stays, and the estimate's Jacobian is not asked for."""
    path = Trig(1.0)
    exact = law().denoiser(path)
    x_t = path.perturb(law().sample(200, seeds=0), 0.5, torch.randn(200, H, 4, dtype=f64))

    class OneWay:
        path, pinned = exact.path, exact.pinned

        def __call__(self, x_t: Tensor, t: Any) -> Tensor:
            return exact(x_t, t).detach()

    before, together = exact(x_t, 0.5), keep_out(BOX, margin=0.05).on(exact)(x_t, 0.5)
    after = keep_out(BOX, margin=0.05, alone=True).on(OneWay())(x_t, 0.5)
    x0, y0, x1, y1 = BOX
    was = inside(before, (x0 - 0.05, y0 - 0.05, x1 + 0.05, y1 + 0.05))
    assert was.any(1).float().mean() > 0.3
    torch.testing.assert_close(after[~was], before[~was])
    assert not inside(after, (x0 - 0.05 + 1e-9, y0 - 0.05 + 1e-9, x1 + 0.05 - 1e-9, y1 + 0.05 - 1e-9)).any()
    way, whole = ((one - before)[was][:, 1].sign() for one in (after, together))
    assert (way == whole).double().mean() > 0.9


def test_ways_that_miss_the_box_are_left_alone() -> None:
    free, kept = plans(), plans(keep_out((50, 50, 51, 51)))
    torch.testing.assert_close(kept, free)
    torch.testing.assert_close(plans(keep_out(raw_box(), strength=0)), free)


def test_strength_is_a_share_of_the_way() -> None:
    x = torch.zeros(2, 1, 4)
    x[1, 0, 0] = 5.0  # far off

    class Says:
        path, pinned = Trig(1.0), "noised"

        def __call__(self, x_t: Tensor, t: Any) -> Tensor:
            return x + 0 * x_t

    box = (-1.0, -2.0, 0.5, 3.0)
    for strength in (0.25, 1.0):
        # out by the nearest side, x = .5 + .1
        moved = keep_out(box, margin=0.1, strength=strength).on(Says())(torch.zeros(2, 1, 4), 0.3)
        torch.testing.assert_close(moved[0, 0], torch.tensor([0.6 * strength, 0, 0, 0]))
        torch.testing.assert_close(moved[1], x[1])


def test_the_box_is_in_the_units_that_it_was_told() -> None:
    guide = keep_out((0, 0, 1, 1), margin=0.5)
    told = guide.measured(UNITS.undo)
    assert isinstance(told, KeepOut)
    assert told.undo is not None
    assert told.measured(lambda x: x) is told
    assert guide.undo is None
    # undone by hand: the two walks are the same
    x0, y0, x1, y1 = BOX
    alone = keep_out((x0, y0, x1, y1), margin=0.05).on(law().denoiser(Trig(1.0)))
    in_units = keep_out(raw_box(), margin=0.1).measured(UNITS.undo).on(law().denoiser(Trig(1.0)))
    noise = Trig(1.0).prior((20, H, 4), dtype=torch.float32)
    walk: dict[str, Any] = {"grid": grids.Rho(5, 3.0, 0.1, 10.0), "solver": solvers.DDIM(), "seeds": 0}
    torch.testing.assert_close(sample(in_units, noise, **walk), sample(alone, noise, **walk), rtol=1e-3, atol=1e-4)


def test_no_graph_is_left_behind() -> None:
    x = keep_out(BOX).on(law().denoiser(Trig(1.0)))(torch.zeros(1, H, 4), 0.5)
    assert not x.requires_grad


def test_several_boxes_are_kept_out_of_together() -> None:
    """Two beside each other, one guide around the other: no plan has points in either, and both were in the way."""
    x0, y0, x1, y1 = raw_box()
    boxes = (x0, y0, x1, y1), (x0 + 2.0, y0, x1 + 2.0, y1)
    free, kept = plans(), plans(*(keep_out(box, margin=0.2) for box in boxes))
    for box in boxes:
        third = slice(H // 3, H - 2)
        assert inside(free[:, third], box).float().mean() > 0.05
        assert inside(kept, box).float().mean() < 0.02


def test_a_guide_around_it_hears_the_jacobian_of_the_estimate() -> None:
    """The inner box shifts points, and leaves their dependence on the state as it is."""
    exact = law().denoiser(Trig(1.0))
    x_t = (0.3 * torch.randn(5, H, 4, dtype=f64)).requires_grad_()
    weight = torch.randn(5, H, 4, dtype=f64)
    both = [torch.autograd.grad((d(x_t, 0.5) * weight).sum(), x_t)[0] for d in (exact, keep_out(BOX).on(exact))]
    assert inside(exact(x_t, 0.5), BOX).any()
    torch.testing.assert_close(both[0], both[1])


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: keep_out((0, 0, 1)), "four numbers .* got 3"),
        (lambda: keep_out((1, 0, 0, 1)), "each from less than its to"),
        (lambda: keep_out((0, 0, 1, 1), margin=-0.1), "the margin is 0 or more"),
        (lambda: keep_out((0, 0, 1, 1), strength=2), "between 0 and 1"),
    ],
)
def test_boxes_that_are_none(ask: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ask()
