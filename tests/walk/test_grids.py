"""The grids against their definitions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from kedge.walk.grids import Cosine, LogSNR, Rho, Uniform
from walk.oracles import PATHS

GRIDS = {
    "Uniform": Uniform, "LogSNR": LogSNR, "Cosine": Cosine, "Rho": Rho, "Rho-3": lambda n, **kw: Rho(n, 3.0, **kw),
}  # fmt: skip
BY_SCALE = {name: make for name, make in GRIDS.items() if name != "Uniform"}


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
