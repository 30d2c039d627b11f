"""What recipes are made of: fields that fit, and batches for all that is trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from data.logs import logs_of
from kedge.data import Segments
from kedge.errors import InputError
from kedge.recipes import DV, FV, Diffuser
from kedge.recipes.networks import known, whole
from kedge.recipes.sources import Plans
from kedge.train import Tick


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"steps": 0}, "FV: steps must be at least 1, got 0"),
        ({"horizon": 1}, "horizon must be at least 2"),
        ({"horizon": 36, "mults": (1, 2, 2, 2)}, "horizon must be a multiple of 8, got 36"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"rate": 0.0}, "rate must be positive, got 0.0"),
        ({"support": -0.1}, "support must be 0 or more"),
        ({"firmness": float("nan")}, "firmness must be 0 or more, got nan"),
        ({"goals": 1.5}, "goals is a share between 0 and 1"),
        ({"path": "vp"}, 'predict="trig" belongs to path="trig"; with path=\'vp\' take "eps"'),
        ({"path": "edm"}, "path is one of trig, vp, cosine, not 'edm'"),
        ({"scale_max": 0.1}, "scale_min 0.2 must be below scale_max 0.1"),
    ],
)
def test_fields_that_cannot_be(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        FV(**fields)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_field_says_what_it_is_and_recipes_differ_from_the_family_in_values_alone() -> None:
    names = [field.name for field in dataclasses.fields(FV)]
    for recipe in (DV, Diffuser):
        assert [field.name for field in dataclasses.fields(recipe)] == names
        assert recipe() == recipe()


def test_dv_is_to_the_letter() -> None:
    dv = DV()
    assert (dv.steps, dv.batch, dv.horizon, dv.stride, dv.candidates, dv.replan) == (1_000_000, 128, 32, 15, 50, 1)
    assert (dv.path, dv.predict, dv.net, dv.width, dv.depth) == ("vp", "eps", "dit", 256, 2)
    assert (dv.solver, dv.evaluations, dv.critic, dv.follow) == ("ddim", 20, "transformer", "inverse-diffusion")
    assert (dv.optimiser, dv.rate, dv.ema, dv.support, dv.keep) == ("adamw", 2e-4, 0.9999, 0.0, False)


def plans_of(share: float, fields: list[str]) -> Plans:
    logs = logs_of([400, 300], rewarded=0.02)
    windows, told = (
        Segments(logs, 6, 5, 16, until=until, fields=fields, seed=s) for s, until in enumerate(("reward", "random"))
    )
    return Plans(windows, told, share, None)


def test_critics_learn_from_windows_that_end_as_the_data_did() -> None:
    """A share of the planner's windows ends elsewhere, and says so; the steps belong to the critic's."""
    plans = plans_of(0.25, ["states", "actions", "steps", "start"])
    batch = plans.next(Tick(3, 0))
    assert batch["told"].tolist() == [True] * 4 + [False] * 12
    assert batch["start"].tolist() == batch["whole"][:, 0, 0].tolist()
    assert not torch.equal(batch["states"][:4], batch["whole"][:4])
    assert torch.equal(batch["states"][4:], batch["whole"][4:])
    both = whole(batch, actions=True)
    assert torch.equal(both[..., :4], batch["whole"])
    assert torch.equal(both[..., 4:], plans.windows.next(Tick(3, 0))["actions"])
    assert torch.equal(whole(batch), batch["whole"])


def test_the_planner_is_told_its_first_state_and_ends_that_are_goals() -> None:
    batch = plans_of(0.25, ["states", "steps"]).next(Tick(0, 0))
    mask = known(batch, 6)
    assert mask[:, 0].tolist() == [[True] * 4 + [False] * 2] * 16
    assert mask[:, -1, 0].tolist() == batch["told"].tolist()
    assert not mask[:, 1:-1].any()
    assert not mask[..., 4:].any()


def test_a_source_goes_on_with_what_it_belongs_to() -> None:
    plans = plans_of(0.25, ["states"])
    plans.load(plans.state())
    with pytest.raises(InputError, match="drew other batches"):
        plans.load(plans_of(0.25, ["states", "steps"]).state())
