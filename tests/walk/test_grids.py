"""The grids against their definitions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from kedge import Walk
from kedge.walk.grids import Cosine, Handover, Jumps, Levels, LogSNR, Quadratic, Rho, Tangent, Uniform
from kedge.walk.solvers import DDIM
from walk.oracles import PATHS

GRIDS = {
    "Uniform": Uniform, "LogSNR": LogSNR, "Cosine": Cosine, "Rho": Rho, "Rho-3": lambda n, **kw: Rho(n, 3.0, **kw),
    "Quadratic": Quadratic, "Tangent": Tangent,
}  # fmt: skip
BY_SCALE = {name: make for name, make in GRIDS.items() if name not in ("Uniform", "Quadratic", "Tangent")}


def scales(path: str, grid: Any) -> list[float]:
    return [PATHS[path].noise_scale(t) for t in grid.levels(PATHS[path]).t]


@pytest.mark.parametrize("n", [1, 2, 3, 17])
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("path", PATHS)
def test_levels_fall_from_the_noise_to_the_data(path: str, name: str, n: int) -> None:
    t = list(GRIDS[name](n).levels(PATHS[path]).t)
    assert len(t) == n + 1
    assert t[-1] == 0.0
    assert abs(t[0] - PATHS[path].t_max) < 1e-9 * PATHS[path].t_max
    assert t[0] <= PATHS[path].t_max
    assert all(a > b for a, b in itertools.pairwise(t))


@pytest.mark.parametrize("path", PATHS)
def test_uniform_in_time(path: str) -> None:
    t = Uniform(4).levels(PATHS[path]).t
    for i in range(5):
        assert t[i] == pytest.approx(PATHS[path].t_max * (4 - i) / 4, rel=1e-15)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", BY_SCALE)
def test_given_ends_are_kept(path: str, name: str) -> None:
    found = scales(path, BY_SCALE[name](6, scale_min=0.05, scale_max=9.0))
    assert found[0] == pytest.approx(9.0, rel=1e-11)
    assert found[-2] == pytest.approx(0.05, rel=1e-11)
    for i, end in ((0, PATHS[path].t_max), (-2, PATHS[path].t_min)):
        assert scales(path, BY_SCALE[name](6))[i] == pytest.approx(PATHS[path].noise_scale(end), rel=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_formulas(path: str) -> None:
    """The middle of three levels: the geometric mean, the mean angle, the power mean of exponent 1 / rho."""
    low, high = 0.05, 9.0
    middle = {name: scales(path, make(3, scale_min=low, scale_max=high))[1] for name, make in BY_SCALE.items()}
    assert middle["LogSNR"] == pytest.approx(math.sqrt(low * high), rel=1e-11)
    assert middle["Cosine"] == pytest.approx(math.tan((math.atan(low) + math.atan(high)) / 2), rel=1e-11)
    assert middle["Rho"] == pytest.approx(((low ** (1 / 7) + high ** (1 / 7)) / 2) ** 7, rel=1e-11)
    assert middle["Rho-3"] == pytest.approx(((low ** (1 / 3) + high ** (1 / 3)) / 2) ** 3, rel=1e-11)


def test_rho_is_edms_table() -> None:
    """EDM's 18 levels at sigma_min .002, sigma_max 80, rho 7: the second and the tenth, by its equation 5."""
    t = Rho(18).levels(PATHS["VE"]).t
    for i in (1, 9):
        exact = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        assert t[i] == pytest.approx(exact, rel=1e-13)
    assert t[1] == pytest.approx(57.586, abs=1e-3)


@pytest.mark.parametrize("name", BY_SCALE)
@pytest.mark.parametrize("path", [name for name in PATHS if name != "VE"])
def test_the_same_noise_scales_on_every_path(path: str, name: str) -> None:
    grid = BY_SCALE[name](8, scale_min=0.01, scale_max=20.0)
    assert scales(path, grid)[:-1] == pytest.approx(scales("VE", grid)[:-1], rel=1e-10)


@pytest.mark.parametrize(
    ("grid", "line"),
    [
        (Uniform(0), "^a grid needs at least one step, got n=0$"),
        (LogSNR(-1), "^a grid needs at least one step, got n=-1$"),
        (LogSNR(4, scale_min=3.0, scale_max=2.0), "^noise scales 3 to 2: expected 0 < scale_min < scale_max <= 80,"),
        (Cosine(4, scale_min=0.0), "^noise scales 0 to 80: expected"),
        (Rho(4, scale_max=81.0), "^noise scales 0.002 to 81: expected"),
        (Rho(4, scale_max=math.nan), "^noise scales 0.002 to nan: expected"),
        (Rho(4, rho=0.0), "^rho must be positive, got 0.0$"),
    ],
)
def test_impossible_grids_are_refused(grid: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        grid.levels(PATHS["VE"])


def test_jumps_and_relays_by_hand() -> None:
    path = PATHS["VE"]
    student = Levels([9.0, 3.0, 1.0, 0.0])
    assert Jumps(student).levels(path).rows() == [9.0, 0.0, 3.0, 0.0, 1.0, 0.0]
    teacher = Levels([80.0, 40.0, 5.0, 2.0, 0.0])
    assert Handover(teacher, 2, student).levels(path).rows() == [80.0, 40.0, 5.0, 0.0, 3.0, 0.0, 1.0, 0.0]
    assert Handover(teacher, 0, student).levels(path).rows() == [80.0, 0.0, 9.0, 0.0, 3.0, 0.0, 1.0, 0.0]
    assert Handover(teacher, 2, student).levels(path).rise == "noise"
    with pytest.raises(ValueError, match="makes 0 to 3 steps before its jump, not 4"):
        Handover(teacher, 4, student).levels(path)
    with pytest.raises(ValueError, match="none of the student's levels is cleaner than 2"):
        Handover(teacher, 3, Levels([9.0, 3.0, 0.0])).levels(path)


def test_a_jump_keeps_the_law_where_the_student_knows_it() -> None:
    """From any level an exact student says a sample; noised afresh to the next level, it is one of that level."""
    path = PATHS["VE"]

    class Exact:
        """The flow of `N(2, 0.25)`: `x = m + s (x_t - m) / sqrt(s^2 + t^2)`."""

        pinned = "noised"

        def __init__(self) -> None:
            self.path = path

        def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
            return 2 + 0.5 * (x - 2) / (0.25 + t**2) ** 0.5

    n = 4000
    start = 2 + (0.25 + 9.0**2) ** 0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0)).double()
    walk = Walk(Exact(), DDIM(), Jumps(Levels([9.0, 3.0, 0.5, 0.0])))
    x = walk.run(start, seeds=1).x
    assert isinstance(x, torch.Tensor)
    assert abs(float(x.mean()) - 2) < 4 * 0.5 / n**0.5
    assert abs(float(x.std()) / 0.5 - 1) < 4 / (2 * n) ** 0.5
    again = walk.run(start, seeds=2).x
    assert isinstance(again, torch.Tensor)
    assert float((x - again).abs().mean()) > 0.05, "the noise between is new"
