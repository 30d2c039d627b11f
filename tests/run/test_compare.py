"""Comparisons of stored evaluations: what pairs, what is refused, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kedge.errors import InputError
from kedge.run.compare import arm, arms, compare, table, told_apart
from kedge.run.feasibility import feasibility
from kedge.run.scores import Planning, Scores

SCORES = np.arange(8) * 10.0


def run(
    folder: Path,
    scores: np.ndarray,
    *,
    seed: int | None = 0,
    task: str = "line",
    first: int = 1_000_000,
    recipe: str = "fv",
    raw: np.ndarray | None = None,
    fields: dict[str, object] | None = None,
    notes: dict[str, object] | None = None,
) -> Path:
    """A folder with an evaluation of those scores, trained with that seed, or not trained."""
    n = len(scores)
    evaluated = Scores(
        task, recipe, 100, np.arange(first, first + n), np.zeros(n, dtype=np.int64),
        latched=scores, raw=scores, latched_score=scores, raw_score=scores - 1 if raw is None else raw,
        feasibility=feasibility([], np.zeros((n, 2, 2)), np.ones(n, dtype=np.int64)),
        planning=Planning(0, 0, 0.0, 0, 0.0), provenance={}, notes=notes or {},
    )  # fmt: skip
    evaluated.save(folder)
    if seed is not None:
        among = seed % 2 == 1  # beside the fields or among them
        words = {
            "recipe": recipe,
            "fields": {"steps": 4000} | (fields or {}) | ({"seed": seed} if among else {}),
            "data": {"seed": 9},
        }
        words |= {} if among else {"seed": seed}
        (folder / "recipe.json").write_text(json.dumps(words))
    return folder


def family(root: Path, name: str, shifts: list[float], **options: object) -> list[Path]:
    """A run for each training seed, its scores shifted."""
    return [
        run(root / f"{name}-{seed}", SCORES + shift, seed=seed, recipe=name, **options)  # pyright: ignore[reportArgumentType]
        for seed, shift in enumerate(shifts)
    ]


def test_arms_are_paired_by_training_seed_and_start(tmp_path: Path) -> None:
    """Seeds shift by 50 each and starts by 10: paired, only 1, 2, 3, 4 are left. The order of the runs is no matter."""
    a = family(tmp_path, "a", [1, 52, 103, 154])
    b = family(tmp_path, "b", [0, 50, 100, 150])
    found = compare(a[::-1], [b[2], b[0], b[3], b[1]])
    assert found.paired.by_seed.tolist() == [1, 2, 3, 4]
    assert found.paired.difference.mean == 2.5
    assert (found.paired.difference.low, found.paired.difference.high) == pytest.approx((1.5, 3.5), abs=0.26)
    assert found.paired.p == 2 / 16
    assert (found.mean_a.mean, found.mean_b.mean) == (112.5, 110)
    assert not found.indicative
    assert compare(b, a).paired.difference.mean == -2.5


def test_the_effect_and_its_interval_come_before_p(tmp_path: Path) -> None:
    a, b = family(tmp_path, "a", [1, 52, 103]), family(tmp_path, "b", [0, 50, 100])
    lines = compare(a, b).lines()
    assert lines[0] == "line, latched score, 8 starts, seeds 1000000 to 1000007"
    effect, p = (next(i for i, line in enumerate(lines) if word in line) for word in ("a - b: +2.0 [", "sign-flip p"))
    assert effect < p
    assert "0.25 (it cannot fall below 0.25)" in lines[p]
    assert lines[-1] == "  indicative: 3 training seeds, more than 3 are needed for a test that can tell"
    four = compare(family(tmp_path, "c", [1, 2, 3, 4]), family(tmp_path, "d", [0, 0, 0, 0])).lines()
    assert not any("indicative" in line for line in four)


def test_one_training_seed_has_an_effect_and_no_test(tmp_path: Path) -> None:
    lines = compare(run(tmp_path / "a", SCORES + 1), str(run(tmp_path / "b", SCORES))).lines()
    assert any("+1.0 [+1.0, +1.0]  (95%, bootstrap over episodes of one training seed)" in line for line in lines)
    assert not any("sign-flip" in line or "Student" in line for line in lines)
    assert "indicative: 1 training seed, " in lines[-1]


def test_the_raw_score_is_compared_when_asked_for_and_known(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", SCORES), run(tmp_path / "b", SCORES, raw=SCORES * 0)
    assert compare(a, b).paired.difference.mean == 0
    assert compare(a, b, score="raw").paired.difference.mean == SCORES.mean() - 1
    unknown = run(tmp_path / "c", SCORES, raw=SCORES * np.nan)
    assert compare(a, unknown).which == "latched"
    with pytest.raises(InputError, match=r"^fv \(c\): no raw return, .* evaluate it to the end$"):
        compare(a, unknown, score="raw")


def test_what_was_never_trained_meets_every_training_seed(tmp_path: Path) -> None:
    fixed = run(tmp_path / "script", SCORES, seed=None, recipe="script")
    found = compare(family(tmp_path, "a", [1, 2, 6]), fixed)
    assert found.paired.by_seed.tolist() == [1, 2, 6]
    assert found.mean_b.seeds == 1
    assert any(line.startswith("script: 35.0 [") and line.endswith("(not trained)") for line in found.lines())
    assert compare(fixed, fixed).paired.by_seed.tolist() == [0]


def test_tuning_starts_are_called_so(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", SCORES, first=0), run(tmp_path / "b", SCORES, first=0)
    assert "tuning" in compare(a, b).lines()[-1]


def test_what_cannot_be_paired_is_refused_in_one_line(tmp_path: Path) -> None:
    a = run(tmp_path / "a", SCORES)
    with pytest.raises(
        InputError, match=r"^fv \(a\) was evaluated on line, fv \(task\) on other: only one task compares$"
    ):
        compare(a, run(tmp_path / "task", SCORES, task="other"))
    with pytest.raises(
        InputError, match=r"8 starts, seeds 1000000 to 1000007, fv \(starts\) has 8 starts, seeds 5 to 12: evaluate"
    ):
        compare(a, run(tmp_path / "starts", SCORES, first=5))
    with pytest.raises(InputError, match="7 starts"):
        compare(a, run(tmp_path / "fewer", SCORES[:7]))
    with pytest.raises(InputError, match=r"^fv \(a\) has training seeds 0, fv \(seed\) has 1: train and give the same"):
        compare(a, run(tmp_path / "seed", SCORES, seed=1))
    with pytest.raises(InputError, match=r"two runs with training seed 0; give one run for each$"):
        arm([a, run(tmp_path / "again", SCORES)])
    with pytest.raises(InputError, match="not the same recipe but for its seed"):
        arm([a, run(tmp_path / "recipe", SCORES, seed=1, recipe="dv")])
    with pytest.raises(InputError, match=r"8 starts, seeds 5 to 12: evaluate both on the same starts$"):
        arm([a, run(tmp_path / "mixed", SCORES, seed=1, first=5)])
    with pytest.raises(InputError, match="give a run at least"):
        compare([], a)
    with pytest.raises(InputError, match="give a run at least"):
        table([])
    with pytest.raises(InputError, match="nothing: there is no such folder; give the folder of a run"):
        compare(a, tmp_path / "nothing")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no evaluation"):
        compare(a, tmp_path / "nothing")
    (a / "recipe.json").write_text("{")
    with pytest.raises(InputError, match=r"recipe\.json cannot be read"):
        arm(a)
    (a / "recipe.json").write_text("[]")
    with pytest.raises(InputError, match=r"recipe\.json cannot be used \(all of it is not an object\)"):
        arm(a)


def test_runs_are_grouped_by_recipe_but_for_its_seed(tmp_path: Path) -> None:
    a, b = family(tmp_path, "a", [0, 1]), family(tmp_path, "b", [0, 1, 2])
    scripts = [run(tmp_path / f"script-{i}", SCORES, seed=None, recipe=f"script-{i}") for i in (0, 1)]
    groups = arms([b[2], a[1], scripts[0], b[0], a[0], b[1], scripts[1]])
    assert [(group.label, group.training) for group in groups] == [
        ("b", (0, 1, 2)), ("a", (0, 1)), ("script-0", (None,)), ("script-1", (None,)),
    ]  # fmt: skip
    assert [path.name for path in groups[0].runs] == ["b-0", "b-1", "b-2"]


def test_a_table_compares_with_the_first_and_corrects_for_the_number_of_arms(tmp_path: Path) -> None:
    """Five seeds give p = 2/32 at best: times 2 for the better of two arms; the other keeps its own, a larger one."""
    first = family(tmp_path, "first", [0] * 5)
    better, same = family(tmp_path, "better", [1, 2, 3, 4, 5]), family(tmp_path, "same", [1, -1, 2, -2, 0.5])
    found = table([first, same, better])
    assert [mean.mean for mean in found.means] == pytest.approx([35, 35.1, 38])
    assert [c.paired.p for c in found.against_first][1] == 2 / 32
    assert found.against_first[1].corrected_p == 4 / 32
    assert found.against_first[0].corrected_p == found.against_first[0].paired.p > 0.5
    text = "\n".join(found.lines())
    assert "better - first: +3.0 [" in text
    assert "0.125 after Holm over 2 comparisons" in text
    assert table([first]).against_first == []


def test_two_arms_are_compared_as_many_are_and_the_lines_say_which_is_taken_from_which(tmp_path: Path) -> None:
    two = table([run(tmp_path / "a", SCORES, recipe="a"), run(tmp_path / "b", SCORES + 1, recipe="b")]).lines()
    assert [line for line in two if "less the first" in line] == ["each less the first, a:"]
    assert any(line.startswith("b - a: +1.0 [") for line in two)


def test_arms_of_one_name_are_told_apart_by_their_fields_or_by_their_folders(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(i), SCORES, fields={"rate": i / 10, "width": 8}) for i in range(3)]
    assert [one.label for one in table(arms(runs)).arms] == ["fv (rate 0.0)", "fv (rate 0.1)", "fv (rate 0.2)"]
    other = run(tmp_path / "other", SCORES, recipe="dv")
    labels = [one.label for one in told_apart(arms([runs[0], other, runs[1]]))]
    assert labels == ["fv (rate 0.0)", "dv", "fv (rate 0.1)"]
    same = [run(tmp_path / name, SCORES, fields={"rate": 1}) for name in ("x", "y")]
    assert [one.label for one in told_apart([arm(one) for one in same])] == ["fv (x)", "fv (y)"]
    many = [run(tmp_path / name, SCORES, fields=dict.fromkeys("abcd", i)) for i, name in enumerate(("m", "n"))]
    assert [one.label for one in told_apart(arms(many))] == ["fv (m)", "fv (n)"]


def test_what_was_evaluated_otherwise_is_another_arm_and_is_called_so(tmp_path: Path) -> None:
    own = run(tmp_path / "own", SCORES)
    few = run(tmp_path / "few", SCORES, notes={"overrides": {"candidates": 3}})
    early = run(tmp_path / "early", SCORES, notes={"step": 1000, "steps": 4000})
    whole = run(tmp_path / "whole", SCORES, seed=2, notes={"step": 4000, "steps": 4000})
    groups = arms([own, few, early, whole])
    assert [one.label for one in groups] == ["fv", "fv, candidates 3", "fv, step 1,000 of 4,000"]
    assert groups[0].training == (0, 2)
    with pytest.raises(InputError, match="or not evaluated alike"):
        arm([own, few])


def test_mazes_of_one_name_that_are_not_the_same_are_not_compared(tmp_path: Path) -> None:
    a, b, c = (
        run(tmp_path / name, SCORES, recipe=name, notes={"environment": {"name": "line", "maze": [name], "horizon": 9}})
        for name in ("a", "b", "c")
    )
    with pytest.raises(InputError, match=r"a and b were evaluated in mazes of one name that differ \(maze\)$"):
        compare(a, b)
    assert compare(a, a).paired.difference.mean == 0
    (c / "recipe.json").write_text((a / "recipe.json").read_text().replace('"seed": 0', '"seed": 2'))
    with pytest.raises(InputError, match="mazes of one name that differ"):
        arm([a, c])
    earlier = run(tmp_path / "earlier", SCORES)
    assert compare(a, earlier).paired.difference.mean == 0


def test_runs_of_earlier_versions_are_of_one_arm_with_those_of_now(tmp_path: Path) -> None:
    """Which do not tell their maze in `recipe.json`."""
    runs = [run(tmp_path / str(seed), SCORES, seed=seed) for seed in (0, 2)]
    recipe = json.loads((runs[0] / "recipe.json").read_text())
    (runs[0] / "recipe.json").write_text(json.dumps(recipe | {"environment": {"name": "line"}}))
    assert [one.training for one in arms(runs)] == [(0, 2)]


def test_everything_is_plain_json(tmp_path: Path) -> None:
    a, b = family(tmp_path, "a", [1, 2]), family(tmp_path, "b", [0, 0])
    words = json.loads(json.dumps(table([a, b]).json(), allow_nan=False))
    assert words["against_first"][0]["difference"]["mean"] == -1.5
    assert words["against_first"][0]["a"]["training_seeds"] == [0, 1]
    assert words["against_first"][0]["starts"] == [1_000_000, 1_000_007, 8]
    assert [one["label"] for one in words["arms"]] == ["a", "b"]
