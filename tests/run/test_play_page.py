"""The playground's page in a real browser: hands, keys, walls, lost connections."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from run.chromium import NONE, Chromium, Page, found
from run.playing import ROOMS, application, served, table

pytestmark = pytest.mark.skipif(found() is None, reason=NONE)

READY = "window.kedge && kedge.ready && kedge.world.plan"
Place = tuple[float, float]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    chromium = Chromium()
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served(application(table())) as found:
        yield found


@pytest.fixture
def page(browser: Chromium, port: int) -> Iterator[Page]:
    yield from opened(browser, port)


def opened(browser: Chromium, port: int, width: int = 1280, height: int = 800, **more: Any) -> Iterator[Page]:
    """A tab that has paused, its ball at (1, 1), so that nothing moves by itself."""
    shown = browser.page(f"http://127.0.0.1:{port}/", width, height, **more)
    shown.until(READY)
    shown.run("sessionStorage.clear()")
    shown.run("document.getElementById('pause').click(); kedge.link.say('ball', {at: [1, 1]}); 0")
    shown.until("kedge.world.settings.paused && Math.hypot(kedge.world.ball[0] - 1, kedge.world.ball[1] - 1) < .01")
    yield shown
    assert shown.said == [], "no script has failed"
    shown.ask("Page.navigate", url="about:blank")
    shown.close()


def at(page: Page, x: float, y: float) -> Place:
    """Where a place in the maze is on the page."""
    box = page.run("(b => [b.left, b.top])(document.getElementById('maze').getBoundingClientRect())")
    scale, origin = page.run("kedge.scale()")
    return box[0] + (y - origin) * scale, box[1] + (x - origin) * scale


def line(page: Page, a: Place, b: Place, steps: int = 8) -> list[Place]:
    ways = [(a[0] + (b[0] - a[0]) * k / steps, a[1] + (b[1] - a[1]) * k / steps) for k in range(steps + 1)]
    return [at(page, *way) for way in ways]


def take(page: Page, tool: str) -> None:
    page.run(f"document.querySelector('[data-tool={tool}]').click()")
    assert page.run(f"document.querySelector('[data-tool={tool}]').getAttribute('aria-checked')") == "true"


def end_of_plan(page: Page) -> Place:
    script = (
        "(p => [0, 1].map(i => p.pictures.at(-1)[(p.best * p.points + p.points - 1) * 2 + i] / 1000))(kedge.world.plan)"
    )
    x, y = page.run(script)
    return x, y


def said(page: Page) -> str:
    return page.run("document.getElementById('say').textContent")


def test_a_dragged_goal_is_planned_to_while_it_is_dragged(page: Page) -> None:
    page.drag(line(page, (3, 3), (1, 5)))
    page.until("kedge.link.n === kedge.world.plan.n")
    goal = page.run("kedge.world.goal")
    assert math.dist(goal, (1, 5)) < 0.05
    assert math.dist(end_of_plan(page), goal) < 0.01
    assert page.run("kedge.took.length") >= 6, "each move was answered, and how soon is known"
    assert "95%" in page.run("document.getElementById('latency').textContent")


def test_a_goal_dragged_into_a_wall_says_so_and_goes_back(page: Page) -> None:
    way = [*line(page, (3, 3), (2.9, 5), 4), *line(page, (2.9, 5), (2.9, 5.6), 4)]
    page.mouse("mousePressed", *way[0])
    for point in way[1:]:
        page.mouse("mouseMoved", *point)
    page.until(
        "document.getElementById('say').dataset.tone === 'bad' && kedge.world.invalid === 'goal' && !kedge.pending.size"
    )
    assert page.run("kedge.world.goal[1]") > 5.5, "it stays under the hand until it is let go"
    page.mouse("mouseReleased", *way[-1], buttons=0)
    assert said(page) == "The goal cannot lie in a wall: the ball would not fit there."
    page.until("kedge.world.goal[1] < 5.21 && kedge.world.invalid === null")
    assert page.run("document.getElementById('say').getAttribute('aria-live')") == "polite"


def test_a_goal_that_passes_through_a_wall_stays_where_it_ends(page: Page) -> None:
    page.drag([*line(page, (3, 3), (3.7, 4), 6), *line(page, (3.7, 4), (3, 5), 6)], pause=0.0)
    page.until("kedge.link.n === kedge.world.plan.n && kedge.world.invalid === null")
    assert math.dist(page.run("kedge.world.goal"), (3, 5)) < 0.05
    assert math.dist(end_of_plan(page), (3, 5)) < 0.05
    assert page.run("document.getElementById('sooner').textContent") != "not yet "


def pixel(page: Page, x: float, y: float) -> str:
    """A script: the colour of a place."""
    where = f"({y} - kedge.scale()[1]) * k, ({x} - kedge.scale()[1]) * k"
    return (
        "((c, k) => JSON.stringify([...c.getContext('2d').getImageData("
        f"{where}, 1, 1).data]))(document.getElementById('maze'), kedge.scale()[0] * devicePixelRatio)"
    )


def test_a_wall_of_the_maze_is_erased_and_put_back_by_hand(browser: Chromium) -> None:
    """A click with Erase opens a cell, in which the ball then fits; another one closes it; the border stays."""
    with served(application(table(layout=ROOMS))) as port:
        for page in opened(browser, port):
            take(page, "erase")
            page.drag([at(page, 0.8, 2.8)])
            page.until("kedge.world.marks.size === 1 && kedge.world.plan.n === kedge.link.n")
            assert said(page) == "Erased: a wall of the maze. Erase the gap, and it is back."
            shown = page.run("[...kedge.world.marks.values()][0].box")
            assert shown == pytest.approx([0.3, 2.3, 1.3, 3.3])
            page.until(f"{pixel(page, 0.5, 2.5)} === {pixel(page, 0.5, 2.0)}")
            assert page.run(pixel(page, 0.5, 2.5)) != page.run(pixel(page, -0.2, 2.5)), "which is the border's"
            page.run("kedge.link.say('ball', {at: [0.9, 2.8]}); 0")
            page.until("Math.hypot(kedge.world.ball[0] - .9, kedge.world.ball[1] - 2.8) < .01")
            page.drag([at(page, 0.5, 2.5)])
            page.until("document.getElementById('say').textContent.includes('come back onto the ball')")
            page.until("kedge.world.marks.size === 1")
            page.run("kedge.link.say('ball', {at: [1, 1]}); 0")
            page.until("Math.hypot(kedge.world.ball[0] - 1, kedge.world.ball[1] - 1) < .01")
            page.drag([at(page, 0.5, 2.5)])
            page.until("kedge.world.marks.size === 0 && kedge.world.plan.n === kedge.link.n")
            assert said(page) == "The wall is back."
            page.drag([at(page, 0.1, 1.0)])
            assert page.run("kedge.world.marks.size") == 0


def test_walls_are_drawn_moved_and_erased(page: Page) -> None:
    take(page, "wall")
    page.drag(line(page, (1.8, 0.6), (2.0, 3.4)))
    page.until("kedge.world.marks.size === 1 && kedge.world.plan.n === kedge.link.n")
    mark = page.run("[...kedge.world.marks.values()][0]")
    assert mark["kind"] == "wall"
    assert mark["box"] == pytest.approx([1.8, 0.6, 2.0, 3.4], abs=0.05)
    assert page.run("kedge.world.plan.crossings[kedge.world.plan.best]") == 0
    assert page.run("kedge.world.plan.crossings[0]") > 0, "the straight way is barred"
    take(page, "move")
    page.drag(line(page, (1.9, 2.0), (1.9, 3.0)))
    page.until("[...kedge.world.marks.values()][0].box[1] > 1.5")
    take(page, "erase")
    page.drag([at(page, 1.9, 3.0)] * 2)
    page.until("kedge.world.marks.size === 0 && kedge.world.plan.n === kedge.link.n")
    assert said(page) == "Erased: a wall."
    assert page.run("kedge.world.plan.crossings[0]") == 0


def test_what_is_sketched_is_on_the_table(page: Page) -> None:
    for tool, way in (("zone", ((1.5, 4), (2, 5))), ("come", ((1, 3), (1.2, 3))), ("keep", ((3, 1), (3, 1.2)))):
        take(page, tool)
        page.drag(line(page, *way))
    take(page, "way")
    page.drag(line(page, (1.2, 1.2), (2.8, 2.6), 20))
    page.until("kedge.world.marks.size === 4 && kedge.world.plan.n === kedge.link.n")
    kinds = page.run("[...kedge.world.marks.values()].map(m => m.kind + m.points?.length).join()")
    assert kinds.startswith("zoneundefined,come1,keep1,way2")
    assert page.run("kedge.world.plan.off.length === kedge.world.plan.candidates"), "and plans are steered"
    page.run("document.getElementById('clear').click()")
    page.until("kedge.world.marks.size === 0 && kedge.world.plan.n === kedge.link.n && !kedge.world.plan.off")


def test_keys_do_what_hands_do(page: Page) -> None:
    page.run("document.getElementById('maze').focus()")
    page.press("g", text="g")
    for _ in range(4):
        page.press("ArrowRight", modifiers=8)
    page.until("Math.abs(kedge.world.goal[1] - 5) < .01 && kedge.world.plan.n === kedge.link.n")
    page.press("3", text="3")
    page.press("Enter")
    for key in ("ArrowDown", "ArrowRight"):
        page.press(key, modifiers=8)
    assert page.run("kedge.world.sketch.kind") == "zone"
    page.press("Enter")
    page.until("kedge.world.marks.size === 1")
    box = page.run("[...kedge.world.marks.values()][0].box")
    assert box == pytest.approx([1.0, 1.0, 1.5, 1.5], abs=0.02)
    page.press("Backspace")
    page.until("kedge.world.marks.size === 0")
    page.press(" ", "Space")
    page.until("!kedge.world.settings.paused")
    page.press("?", text="?")
    assert page.run("document.getElementById('keys').open")
    page.press("Escape")
    page.until("!document.getElementById('keys').open")


def test_every_control_has_a_name_and_sliders_are_heard(page: Page) -> None:
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select, canvas, dialog')].filter(e => !(e.ariaLabel"
        " || e.getAttribute('aria-labelledby') || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []
    page.run("(e => { e.value = 3; e.dispatchEvent(new Event('input')); })(document.getElementById('candidates'))")
    page.until("kedge.world.plan.candidates <= 4 && kedge.world.plan.n === kedge.link.n")
    assert page.run("document.querySelector('output[for=candidates]').textContent") == "3"


@pytest.mark.parametrize("touch", [False, True])
def test_all_fits_on_a_laptop_and_on_a_tablet_by_finger_too(browser: Chromium, port: int, touch: bool) -> None:
    width, height = (820, 1180) if touch else (1280, 800)
    for page in opened(browser, port, width, height, touch=touch, dark=touch):
        wide = page.run("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], "nothing is wider than the page"
        low = page.run("document.getElementById('transport').getBoundingClientRect().bottom")
        assert low <= height
        if not touch:
            assert page.run("(a => a.scrollHeight - a.clientHeight)(document.querySelector('aside'))") <= 1
            continue
        page.swipe(line(page, (3, 3), (1, 5)))
        page.until(
            "Math.hypot(kedge.world.goal[0] - 1, kedge.world.goal[1] - 5) < .1 && kedge.world.plan.n === kedge.link.n"
        )
        dark, light = page.run("getComputedStyle(document.body).backgroundColor"), "rgb(238, 241, 244)"
        page.run("document.getElementById('theme').click()")
        assert page.run("getComputedStyle(document.body).backgroundColor") == light != dark
        page.run("localStorage.clear()")


def test_a_lost_connection_comes_back_and_what_was_drawn_with_it(browser: Chromium) -> None:
    """The server dies and another takes its place: the page's own world is made anew in it."""
    with served(application(table())) as port:
        (page,) = [next(tabs := opened(browser, port))]
        take(page, "wall")
        page.drag(line(page, (1.8, 0.6), (2.0, 2.4)))
        take(page, "move")
        page.drag(line(page, (3, 3), (1, 5)))
        page.until("kedge.world.marks.size === 1 && kedge.world.plan.n === kedge.link.n")
        before = page.run("JSON.stringify([...kedge.world.marks.values()])")
    page.until("document.getElementById('link').dataset.state === 'lost'")
    assert not page.run("document.getElementById('lost').hidden")
    with served(application(table()), port):
        page.until("document.getElementById('link').dataset.state === 'live' && document.getElementById('lost').hidden")
        page.until("kedge.world.settings.paused && Math.hypot(kedge.world.goal[0] - 1, kedge.world.goal[1] - 5) < .1")
        assert page.run("JSON.stringify([...kedge.world.marks.values()])") == before
        page.until("kedge.world.plan.n === kedge.link.n")
        assert math.dist(end_of_plan(page), (1, 5)) < 0.1, "and the new world plans for it"
        page.run("kedge.ready = false; location.reload()")
        page.until(f"{READY} && kedge.world.marks.size === 1")
        assert page.run("JSON.stringify([...kedge.world.marks.values()])") == before, "a reload forgets nothing either"
        page.said = [line for line in page.said if "WebSocket" not in line]  # the browser's own word on the lost one
        for _ in tabs:
            pass
