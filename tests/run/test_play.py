"""The playground as it is served: who is let in, what is said to whom, and how soon."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from kedge.envs import Kitchen
from kedge.errors import InputError
from kedge.run.commands.play import Play, address_of, table_of
from kedge.run.play import server
from kedge.run.play.server import TABS, landscape_of
from kedge.run.recorded import environment_of
from run.playing import Tab, Ways, agent, application, served, table
from run.program import Run, program
from run.run_folder import write_training


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A playground whose plans take no time."""
    with served(application(table())) as found:
        yield found


def read(port: int, path: str = "", **headers: str) -> str:
    with urlopen(Request(f"http://127.0.0.1:{port}/{path}", headers=headers), timeout=10) as answer:
        return answer.read().decode()


def test_a_tab_is_greeted_with_all_that_it_has_to_know_and_its_plans_begin(port: int) -> None:
    tab = Tab(port)
    hello = tab.kind("hello")
    assert hello["maze"]["shape"] == [5, 7]
    assert (hello["goal"], hello["marks"], hello["heeds"]) == ([3.0, 3.0], [], True)
    assert set(hello["ranges"]) >= {"candidates", "steps", "temperature", "strength", "speed"}
    plan = tab.kind("plan")
    assert plan["draft"]
    assert plan["pictures"].shape == (1, 6, 8, 2)
    np.testing.assert_allclose(plan["pictures"][-1, plan["best"], -1], [3, 3], atol=1e-3)
    before, after = tab.kind("ball"), tab.kind("ball")
    assert after["steps"] > before["steps"], "time passes"
    tab.close()


def test_the_page_and_its_files_are_there_and_nothing_comes_from_elsewhere(port: int) -> None:
    page = read(port)
    assert 'src="static/play.js"' in page
    files = sorted(path.name for path in server.STATIC.iterdir())
    assert files == ["charts.js", "hands.js", "icon.svg", "index.html", "link.js", "paint.js", "play.css", "play.js"]
    for name in files:
        text = read(port, f"static/{name}")
        assert text == (server.STATIC / name).read_text(encoding="utf-8")
        addresses = text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in addresses
        assert "https://" not in addresses
    with urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_goal_is_planned_to_and_a_refused_one_is_told_with_its_reason_and_what_holds(port: int) -> None:
    tab = Tab(port)
    tab.kind("hello")
    n = tab.say("goal", at=[1.0, 5.0])
    plan = tab.plan(n)
    np.testing.assert_allclose(plan["pictures"][-1, plan["best"], -1], [1, 5], atol=1e-3)
    n = tab.say("goal", at=[0.0, 0.0])
    refused = tab.kind("refused")
    assert (refused["n"], refused["goal"]) == (n, [1.0, 5.0])
    assert refused["why"] == "the goal cannot lie in a wall: the ball would not fit there"
    tab.socket.send(b"\x00\x01")
    assert tab.kind("refused")["why"].startswith("a message is text")
    tab.socket.send("nonsense")
    assert "cannot be read as JSON" in tab.kind("refused")["why"]
    assert tab.plan(tab.say("goal", at=[1.0, 1.0]))["n"] > n, "and it goes on"
    tab.close()


def test_each_tab_has_a_world_of_its_own(port: int) -> None:
    one, two = Tab(port), Tab(port)
    starts = [tab.kind("hello")["ball"] for tab in (one, two)]
    assert starts[0] != starts[1]
    wall = {"id": "w", "kind": "wall", "box": [1.0, 3.4, 1.4, 3.6]}
    one.say("set", name="paused", value=True)
    one.say("ball", at=[1.0, 1.0])
    one.say("draw", mark=wall)
    one.say("goal", at=[2.0, 5.0])
    assert one.hear(lambda w: w["type"] == "scene" and w["settings"]["paused"])
    for tab, marks, goal in ((one, [wall], [2.0, 5.0]), (two, [], [3.0, 3.0])):
        tab.say("set", name="steps", value=3)
        scene = tab.hear(lambda w: w["type"] == "scene" and w["settings"]["steps"] == 3)
        assert (scene["marks"], scene["goal"]) == (marks, goal)
    one.close()
    two.close()


def test_while_time_stands_still_the_ball_does_and_plans_are_searched_for(port: int) -> None:
    tab = Tab(port)
    tab.kind("hello")
    n = tab.say("set", name="paused", value=True)
    n = tab.say("ball", at=[1.0, 1.0])
    rounds = [tab.plan(n) for _ in range(4)]
    assert [p["draft"] for p in rounds] == [True, False, False, False]
    assert [p["round"] for p in rounds] == [0, 0, 1, 2]
    assert [p["kept"] for p in rounds] == [False, False, True, True]
    tab.say("set", name="speed", value=1.0)
    with pytest.raises(TimeoutError):
        tab.hear(lambda w: w["type"] == "ball" and w["at"][:2] != [1.0, 1.0], 0.3)
    tab.say("set", name="paused", value=False)
    assert tab.hear(lambda w: w["type"] == "ball" and w["at"][:2] != [1.0, 1.0])
    tab.close()


def test_a_newer_request_supersedes_an_older_one_and_the_last_is_always_answered() -> None:
    """Plans take 60 ms here and requests come every 10: most are passed over, none waits for more than two plans."""
    player = agent(pause=0.06)
    ways: Any = player.proposer
    with served(application(table(player))) as port:
        tab = Tab(port)
        tab.kind("hello")
        tab.say("set", name="paused", value=True)
        begun = ways.calls
        for i in range(40):
            n = tab.say("goal", at=[1.0, 1.0 + 0.1 * i])
            time.sleep(0.01)
        last, asked = n, time.perf_counter()
        plan = tab.plan(last)
        waited, made = time.perf_counter() - asked, ways.calls - begun
        np.testing.assert_allclose(plan["pictures"][-1, plan["best"], -1], [1.0, 4.9], atol=1e-3)
        assert made < 20, "not one for each"
        assert waited < 1.0
        tab.close()


def test_the_loop_answers_one_tab_while_another_plans_for_long() -> None:
    with served(application(table(agent(pause=0.8)))) as port:
        slow, quick = Tab(port), Tab(port)
        slow.kind("hello")
        quick.kind("hello")
        asked = []
        for _ in range(5):
            slow.say("goal", at=[1.0, 1.0])
            begun = time.perf_counter()
            quick.socket.send("nonsense")
            quick.kind("refused")
            asked.append(time.perf_counter() - begun)
        assert sorted(asked)[2] < 0.25, asked
        slow.close()
        quick.close()


def test_a_token_is_wanted_of_the_page_and_of_its_connection() -> None:
    with served(application(table(), token="sésame&")) as port:
        for path in ("", "?token=wrong"):
            with pytest.raises(HTTPError, match="403"):
                read(port, path)
        address = address_of("127.0.0.1", port, "sésame&")
        with urlopen(address, timeout=10) as answer:
            assert answer.status == 200
        tab = Tab(port, "wrong")
        assert "wants its token" in tab.kind("refused")["why"]
        with pytest.raises(ConnectionClosed) as closed:
            tab.kind("hello", 2)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
        let_in = Tab(port, address.partition("=")[2])
        let_in.kind("hello")
        let_in.close()


def test_pages_of_other_sites_are_sent_away(port: int) -> None:
    assert "cannot play here" in Tab(port, Origin="http://elsewhere.example").kind("refused")["why"]
    Tab(port, Origin=f"http://127.0.0.1:{port}").kind("hello")
    with pytest.raises(HTTPError, match="403"):  # a name of theirs that points to this machine
        read(port, Host="elsewhere.example")
    assert "<title>" in read(port, Host=f"localhost:{port}")


def test_there_is_room_for_so_many_tabs_and_one_that_leaves_makes_room() -> None:
    with served(application(table())) as port:
        tabs = [Tab(port) for _ in range(TABS)]
        for tab in tabs:
            tab.kind("hello")
        assert f"{TABS} tabs are open already" in Tab(port).kind("refused")["why"]
        tabs[0].close()
        end = time.monotonic() + 5
        while time.monotonic() < end and Tab(port).hear(lambda w: True)["type"] != "hello":
            time.sleep(0.05)
        assert time.monotonic() < end
        for tab in tabs:
            tab.close()


def test_a_message_that_is_too_long_ends_the_connection_alone(port: int) -> None:
    tab = Tab(port)
    tab.kind("hello")
    tab.socket.send("x" * 70_000)
    with pytest.raises(ConnectionClosed) as closed:
        tab.kind("refused", 5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    Tab(port).kind("hello")


def test_a_plan_that_fails_is_told_once_and_the_next_wish_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Ways.propose

    def fails(self: Ways, states: Any, seeds: Any, goal: Any, *more: Any) -> Any:
        if goal[0, 1] > 4:
            raise RuntimeError("no way")
        return whole(self, states, seeds, goal, *more)

    monkeypatch.setattr(Ways, "propose", fails)
    with served(application(table())) as port:
        tab = Tab(port)
        tab.kind("hello")
        tab.say("set", name="paused", value=True)
        tab.say("goal", at=[1.0, 5.0])
        assert tab.kind("refused")["why"] == "no plan could be made: RuntimeError: no way"
        with pytest.raises(TimeoutError):
            tab.kind("refused", 0.5)
        assert tab.plan(tab.say("goal", at=[1.0, 1.0]))
        tab.close()


def test_the_landscape_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    assert landscape_of(tmp_path) == []
    rows = ["step,log_sigma,log_loss,fitted", "10,-1,-2,-2.5", "10,0,-1,", "20,-1,-3,-3", "20,0,nan,1", "x,0,0,0", "30"]
    (tmp_path / "landscape.csv").write_text("\n".join(rows))
    first, second = landscape_of(tmp_path)
    assert first == {"step": 10, "log_sigma": [-1.0, 0.0], "log_loss": [-2.0, -1.0], "fitted": [-2.5, None]}
    assert second["log_sigma"] == [-1.0]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return program(capsys)


def test_the_command_says_what_is_wrong_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kedge.load", lambda folder, device=None: agent(), raising=False)
    write_training(Path("mine"), "maze2d-umaze")
    write_training(Path("elsewhere"), "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for args, said in (
            (["nowhere"], "nowhere: there is no such folder"),
            (["elsewhere"], "trained on data of no known environment: say which with --env"),
            (["mine", "--port", port], f"port {port} of 127.0.0.1 cannot be listened on (Address already in use)"),
            (["mine", "--port", "70000"], "--port is a number from 0 to 65535"),
            (["mine", "--host", "203.0.113.7"], "of 203.0.113.7 cannot be listened on"),
            (["mine", "--token", ""], "--token is a word"),
        ):
            code, out, err = run("play", *args, "--no-browser")
            assert (code, out, err.count("\n")) == (2, "", 1), err
            assert said in err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "starlette", None)
    code, _, err = run("play", "mine", "--no-browser")
    said = "kedge: starlette, by which the playground is served, is not installed: pip install 'kedge[play]'\n"
    assert (code, err) == (2, said)


def test_the_command_serves_on_the_loopback_prints_the_address_and_ends_quietly(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kedge.load", lambda folder, device=None: agent(), raising=False)
    opened, heard = [], []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def serve(app: Any, listening: socket.socket, begun: Any) -> None:
        heard.append(listening.getsockname()[0])
        begun()
        listening.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve", serve)
    write_training(Path("mine"), "maze2d-umaze")
    code, out, err = run("play", "mine", "--port", "0", "--token", "a b")
    assert (code, out, heard) == (0, "", ["127.0.0.1"])
    assert opened[0].endswith("/?token=a%20b")
    assert opened[0] in err
    assert run("play", "mine", "--port", "0", "--no-browser")[0] == 0
    assert len(opened) == 1
    assert Play.__dataclass_fields__["host"].default == "127.0.0.1"
    assert address_of("0.0.0.0", 80, None) == "http://127.0.0.1:80/"
    assert address_of("::1", 80, None) == "http://[::1]:80/"


def test_a_kitchen_cannot_be_played_in(tmp_path: Path) -> None:
    """One line, before any weights are asked for."""
    kitchen = Kitchen("partial")
    said = {"recipe": "FV", "task": kitchen.name, "environment": environment_of(kitchen)}
    (tmp_path / "recipe.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="draws a maze from above, and kitchen-partial is none"):
        table_of(tmp_path, None, None)
