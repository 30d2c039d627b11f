"""The report: whole in itself, complete, readable by machines and by people, and honest about what is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kedge.envs import Layout, Maze2D
from kedge.errors import InputError
from kedge.plan.drawing import LIGHT, shades
from kedge.run.report import render, report
from kedge.run.report.board import bar, boards
from kedge.run.report.figures import POINTS, thinned
from kedge.run.report.page import LIMIT
from kedge.run.report.reading import read_run, table
from kedge.run.report.words import duration, figure, percent
from run.run_folder import Agent, write_evaluation, write_run, write_training

VOID = {"meta", "link", "br", "img", "input", "hr"}
SECTIONS = ("scores", "episodes", "plans", "honest", "speed", "learning", "origin")


class Page(HTMLParser):
    """A page taken apart: its tags, its text, and whether they close as they opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "fv-umaze", "umaze", 15)


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return report(folder, agents=[Agent(Layout.of("umaze"))]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_file_asks_for_nothing_from_outside_and_runs_nothing(text: str, page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", text, re.IGNORECASE)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "img", "object", "embed", "base", "form")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert set(page.attributes("src")) == set()
    assert all(link == {"rel": "icon", "href": "data:,"} for link in page.of("link"))
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert len(text.encode()) < LIMIT


def test_every_reference_within_the_page_has_its_target_and_ids_are_unique(text: str, page: Page) -> None:
    ids = page.attributes("id")
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    inside = [target[1:] for target in page.attributes("href") if target.startswith("#")]
    inside += re.findall(r"url\(#([^)]*)\)", text) + page.attributes("aria-labelledby")
    assert len(inside) > len(SECTIONS)
    assert set(inside) <= set(ids)


def test_all_sections_are_there_and_each_figure_says_how_to_read_it(page: Page) -> None:
    ids = page.attributes("id")
    assert [name for name in SECTIONS if name not in ids] == []
    assert page.text.count("How to read it.") >= len(SECTIONS) - 1  # all but where it comes from
    for words in (
        "executed prefix",
        "Start consistency",
        "Tracking error",
        "Plans a second",
        "noise scale 10",
        "log L",
    ):
        assert words in page.text
    assert "waypoint controller in maze2d-umaze, not D4RL's files; 1,000,000 steps" in page.text
    assert "Commit" in page.text
    assert "Machine" in page.text
    assert "1,000,000 to 1,000,014" in page.text


def test_every_picture_has_words_for_those_who_do_not_see_it(page: Page) -> None:
    pictures = page.of("svg")
    assert len(pictures) > 20
    assert all(len(picture.get("aria-label", "")) > 10 and picture["role"] == "img" for picture in pictures)
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("h1")) == 1
    regions = [attributes for attributes in page.of("div") if attributes.get("role") == "region"]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in regions)


def test_the_score_stands_there_with_its_interval_and_says_that_it_is_latched(folder: Path, page: Page) -> None:
    words = json.loads((folder / "evaluation.json").read_text())
    score = words["latched"]["score"]
    assert f"{score['mean']:.1f} 95% interval {score['low']:.1f} to {score['high']:.1f}" in page.text
    assert "over 15 episodes latched" in page.text
    assert f"is {words['raw']['score']['mean']:.1f}" in page.text
    assert "the planner reached the goal in 14, half of these within" in page.text
    assert f"{100 * score['mean'] / 167:.0f}% of the most that physics allows (167)" in page.text


def test_latched_and_raw_are_not_taken_for_each_other(folder: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(folder, tmp_path / "apart"))
    words = json.loads((there / "evaluation.json").read_text())
    words["raw"]["score"] |= {"mean": 12.3, "low": 11.1, "high": 13.5}
    (there / "evaluation.json").write_text(json.dumps(words))
    headline = render([read_run(there)]).view.headline
    assert headline is not None
    assert (headline.score, headline.kind) == (f"{words['latched']['score']['mean']:.1f}", "latched")
    assert headline.latched.endswith("which counts only the steps spent at the goal, is 12.3 (11.1 to 13.5).")
    words["raw"]["score"] = None
    (there / "evaluation.json").write_text(json.dumps(words))
    assert "not available: the evaluation stopped" in render([read_run(there)]).text


def test_the_four_rows_and_the_published_ones_stand_beside_it(folder: Path, page: Page) -> None:
    for name in ("The data's controller", "Nearest logged segment", "A* and P-D", "Time-optimal"):
        assert name in page.text
    for name, score in (("DV", "136.6"), ("Diffuser", "113.9"), ("HD", "155.8"), ("DQL*", "140.6"), ("IDQL", "57.9")):
        assert re.search(rf"(?<!\S){re.escape(name)} (\D* )?{score}", page.text)
    assert "Not measured for this report" not in page.text
    (found,) = boards([read_run(folder)])
    assert [group.name for group in found.groups] == [
        "This run",
        "Held beside it",
        "Published, on D4RL's own data",
    ]
    assert found.groups[1].rows[3].score == "167.0"
    assert "measured on other starts" not in page.text
    (folder / "baselines" / "nearest").rename(folder / "baselines" / "kept")
    write_evaluation(folder / "baselines" / "nearest", Maze2D("umaze"), 3, "other starts", plans=False, first_seed=5)
    (found,) = boards([read_run(folder)])
    assert [row.name for row in found.groups[1].rows if "measured on other starts" in row.note] == [
        "Nearest logged segment"
    ]
    shutil.rmtree(folder / "baselines" / "nearest")
    (folder / "baselines" / "kept").rename(folder / "baselines" / "nearest")


def test_rows_that_were_not_measured_are_named(folder: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(folder, tmp_path / "alone"))
    shutil.rmtree(alone / "baselines" / "nearest")
    shutil.rmtree(alone / "baselines" / "optimal")
    (found,) = boards([read_run(alone)])
    (line,) = found.missing
    assert line.startswith("Not measured for this report: Nearest logged segment, Time-optimal.")
    assert "dashed line" not in found.read


def test_a_run_that_was_only_begun_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    for line in ("Not evaluated yet", "No metrics.csv", "No landscape.csv", "The maze that this run belongs to"):
        assert line in page.text
    assert not (tmp_path / "report.png").exists()
    write_training(tmp_path, "maze2d-umaze")
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "No metrics.csv" not in page.text
    assert "No landscape.csv" not in page.text
    assert "No weights in the run's folder" in page.text


def test_what_a_stranger_wrote_is_shown_and_never_run(folder: Path, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'{{ 7 * 7 }}"
    there = Path(shutil.copytree(folder, tmp_path / evil))
    recipe = json.loads((there / "recipe.json").read_text())
    (there / "recipe.json").write_text(json.dumps(recipe | {"recipe": evil, "data": {"source": evil}, evil: evil}))
    summary = json.loads((there / "evaluation.json").read_text())
    (there / "evaluation.json").write_text(json.dumps(summary | {"label": evil, "commit": evil}))
    (there / "metrics.csv").write_text('step,seconds,"<b onclick=""x"">/loss"\n1,1,1\n2,2,2\n')
    page = Page(report(there).read_text(encoding="utf-8"))
    assert not page.of("img")
    assert not page.attributes("onerror") + page.attributes("onclick")
    assert evil in page.text


def test_several_runs_are_compared_in_one_file(folder: Path, tmp_path: Path) -> None:
    write_training(tmp_path / "other", "maze2d-umaze", rate=900.0)
    write_evaluation(tmp_path / "other", Maze2D("umaze"), 15, "FV slow", lost=8)
    page = Page(report([folder, tmp_path / "other"], tmp_path / "both.html").read_text(encoding="utf-8"))
    ids = Counter(page.attributes("id"))
    assert max(ids.values()) == 1
    assert {"episodes-0", "episodes-1", "origin"} <= set(ids)
    assert "One against the other, start by start" in page.text
    assert len([label for label in page.attributes("aria-label") if label.startswith("planner: loss against")]) == 2
    (found,) = boards([read_run(folder), read_run(tmp_path / "other")])
    assert [row.name for row in found.groups[0].rows] == ["fv-umaze", "other"]


def test_each_of_several_runs_has_its_own_rows_beside_it(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    write_evaluation(other / "baselines" / "nearest", Maze2D("umaze"), 15, "nearest", lost=9, plans=False)
    shutil.rmtree(other / "baselines" / "astar")
    runs = [read_run(folder), read_run(other)]
    (found,) = boards(runs)
    groups = {group.name: group.rows for group in found.groups}
    names = {heading: [row.name for row in rows] for heading, rows in groups.items()}
    assert names["Held beside all of them"] == ["The data's controller", "Time-optimal"]
    assert names["Held beside fv-umaze"] == ["Nearest logged segment", "A* and P-D"]
    assert names["Held beside other"] == ["Nearest logged segment"]
    scores = [groups[f"Held beside {run.name}"][0].score for run in runs]
    assert scores == [figure(run.baselines["nearest"].latched["mean"]) for run in runs]
    assert len(set(scores)) == 2
    assert found.missing[0].startswith("Not measured for this report: A* and P-D of other.")
    assert found.arrivals is not None
    assert "Nearest logged segment, fv-umaze" in found.arrivals.svg


def test_runs_of_recipes_that_differ_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    words = json.loads((other / "recipe.json").read_text())
    (other / "recipe.json").write_text(json.dumps(words | {"fields": words["fields"] | {"rate": 900.0}}))
    (found,) = boards([read_run(folder), read_run(other)])
    assert [row.note for row in found.groups[0].rows] == ["FV (rate 300.0)", "FV (rate 900.0)"]
    (other / "recipe.json").write_text(json.dumps(words | {"seed": 1}))
    (found,) = boards([read_run(folder), read_run(other)])
    assert [row.note for row in found.groups[0].rows] == ["FV", "FV"], "seeds of one recipe are one arm"


def test_an_override_stands_in_the_label(folder: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(folder, tmp_path / "few"))
    words = json.loads((there / "evaluation.json").read_text())
    (there / "evaluation.json").write_text(json.dumps(words | {"overrides": {"candidates": 3}}))
    (found,) = boards([read_run(there)])
    assert found.groups[0].rows[0].note == "FV, candidates 3"
    assert "FV on Maze2D umaze, candidates 3" in render([read_run(there)]).text


def test_the_picture_of_the_headline_is_a_png_beside_the_page(text: str, folder: Path) -> None:
    assert text
    made = (folder / "report.png").read_bytes()
    assert made.startswith(b"\x89PNG")
    assert len(made) < 1_000_000


def test_the_colours_of_the_text_can_be_read_on_light_and_on_dark(text: str) -> None:
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})\b", block))
        for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    ]
    assert len(themes) == 3  # light, dark, print
    for theme in themes:
        for ink in ("ink", "muted", "blue"):
            for ground in ("page", "card", "soft"):
                assert contrast(theme[ink], theme[ground]) > 4.5, (ink, ground)
        for line in ("vermillion", "green", "ramp7"):
            assert contrast(theme[line], theme["card"]) > 3, line


def contrast(one: str, other: str) -> float:
    """The WCAG's ratio of luminances."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        rgb = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_drawings_take_the_page_s_colours_so_that_they_follow_light_and_dark(text: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []
    defined = set(re.findall(r"--(\w+):", text))
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= defined
    assert "<style" not in drawings


def test_a_folder_that_is_no_run_and_files_that_are_broken_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder; give the folder of a run"):
        report(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"not a run's folder \(it has no recipe.json\)"):
        report(tmp_path)
    with pytest.raises(InputError, match="give the folder of a run"):
        report([])
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(InputError, match=r"recipe.json cannot be read"):
        report(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "metrics.csv").write_text("step,loss\n1,many\n")
    with pytest.raises(InputError, match=r"metrics.csv cannot be read \('many' is no number\)"):
        report(tmp_path)
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n1,\xb7\n")
    with pytest.raises(InputError, match=r"metrics.csv cannot be read \('utf-8' codec"):
        report(tmp_path)


def test_a_table_leaves_out_a_half_written_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n2,\n3")
    columns = table(tmp_path / "metrics.csv")
    assert columns is not None
    np.testing.assert_array_equal(columns["step"], [1, 2])
    np.testing.assert_array_equal(columns["loss"], [0.5, np.nan])
    (tmp_path / "metrics.csv").write_text("step,loss\n")
    assert table(tmp_path / "metrics.csv") is None


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    assert report(tmp_path, tmp_path / "deep" / "page.html") == tmp_path / "deep" / "page.html"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["page.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the report could not be written"):
        report(tmp_path, tmp_path / "file" / "page.html")


def test_a_maze_of_one_s_own_is_drawn_from_what_the_data_say(folder: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(folder, tmp_path / "own"))
    recipe = json.loads((there / "recipe.json").read_text()) | {"task": "maze2d-mine"}
    recipe["data"]["settings"]["maze"] = list(Layout.of("umaze").rows)
    (there / "recipe.json").write_text(json.dumps(recipe))
    summary = json.loads((there / "evaluation.json").read_text())
    (there / "evaluation.json").write_text(json.dumps(summary | {"task": "maze2d-mine"}))
    found = render([read_run(there)])
    assert "Maze2D mine" in found.text
    assert "executed paths from their starts" in found.text
    assert "Published" not in found.text.split("<details>")[0]


def test_bars_place_scores_on_their_axis() -> None:
    drawn = bar(150.0, {"low": 100.0, "high": 400.0}, 0.0, 300.0, 252.0, "blue")
    assert 'cx="50.00%"' in drawn
    assert 'x1="33.33%" x2="100.00%"' in drawn
    assert 'x1="84.00%" x2="84.00%"' in drawn


def test_shades_go_by_rank_and_curves_keep_their_medians() -> None:
    found = shades(np.array([-1e9, 3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0]))
    assert found == [LIGHT.ramp[i] for i in (0, 3, 1, 2, 4, 5, 6, 7)]
    x = np.arange(10 * POINTS, dtype=float)
    y = np.where(x % 10 == 0, 1e6, 1.0)
    few_x, few_y = thinned(x, y)
    assert len(few_x) == POINTS
    np.testing.assert_array_equal(few_y, 1.0)
    np.testing.assert_array_equal(thinned(x[:3], np.array([1.0, np.nan, 2.0]))[0], [0.0, 2.0])


def test_numbers_as_words() -> None:
    assert [duration(s) for s in (None, 2e-5, 0.0123, 5.0, 300.0)] == ["–", "20 µs", "12.3 ms", "5 s", "5 min"]
    assert [figure(x) for x in (None, float("nan"), 1234.56)] == ["–", "–", "1,234.6"]
    assert [percent(x, 0) for x in (None, 0.5)] == ["–", "50%"]
