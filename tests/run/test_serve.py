"""The policy server: what clients get, whoever else is served, and what becomes of it when connections end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

import kedge
from drilling.hostile import Raw
from kedge.client import (
    BusyError,
    Client,
    LateError,
    Remote,
    ServerFailedError,
    UnauthorisedError,
    UnreachableError,
)
from kedge.client.wire import pack, unpack
from kedge.errors import InputError
from kedge.run.serve import Limits, Server, lanes
from kedge.run.serve.entrance import is_loopback, lets_in, token_for
from kedge.run.serve.lanes import Pace
from plan.agents import drawn_agent
from plan.test_steady import policy
from run.program import Run, program
from run.served import Openpi, Scripted, Steps

SEEN = np.array([1.0, 2.0, 3.0])


def get(url: str, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url.replace("ws://", "http://") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_an_openpi_client_is_told_what_is_served_and_given_actions_with_their_times() -> None:
    with Server(Scripted()).running() as url:
        client = Openpi(url)
        assert client.metadata["agent"] == "scripted"
        assert client.metadata["observation"] == {"shape": [3], "dtype": "float64"}
        assert client.metadata["actions"]["shape"] == [1, 3]
        for step in range(3):
            answer = client.infer({"observation": SEEN})
            assert answer["actions"].shape == (1, 3)
            assert answer["actions"][0].tolist() == (2 * SEEN + step).tolist()
            assert answer["server_timing"]["infer_ms"] >= 0
        answer = client.infer({"observation": SEEN.astype(np.float32), "reset": True, "seed": 7, "deadline_ms": 1e4})
        assert answer["actions"][0].tolist() == (2 * SEEN + 7).tolist()
        with pytest.raises(RuntimeError, match="late"):
            client.infer({"observation": SEEN, "deadline_ms": np.float64(-1.0)})
        assert client.infer({"observation": SEEN})["actions"][0].tolist() == (2 * SEEN + 8).tolist()
        client.socket.close()


AGENTS = {"planner": drawn_agent, "chunks": policy}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", AGENTS)
def test_actions_are_bitwise_those_of_an_evaluation_in_process_whoever_else_is_served(name: str, batch: int) -> None:
    """Three episodes in a maze over the wire, while others come, ask at their own pace, and go."""
    agent, maze = AGENTS[name](), kedge.envs.Maze2D("umaze", horizon=9)
    server = Server(agent, Limits(batch=batch), width=8)
    stop = threading.Event()

    def other(url: str, number: int) -> int:
        rng, asked = np.random.default_rng(number), 0
        while not stop.is_set():
            with Client(url) as client:
                client.reset(number)
                for _ in range(int(rng.integers(1, 9))):
                    client.act(rng.normal(size=4))
                    asked += 1
        return asked

    with server.running() as url, ThreadPoolExecutor(3) as pool:
        others = [pool.submit(other, url, number) for number in range(3)]
        remote = Remote(url)
        try:
            there = kedge.evaluate(remote, maze, episodes=3, hold=None)
        finally:
            stop.set()
        remote.close()
        assert min(future.result() for future in others) > 1
    here = agent if batch == 1 else agent.steady(8)
    alone = kedge.evaluate(here, maze, episodes=3, hold=None, batch=1 if batch == 1 else None)
    assert there.positions is not None
    np.testing.assert_array_equal(there.positions, alone.positions)
    assert np.ptp(there.positions[:, -1], axis=0).max() > 0.05
    if batch > 1:
        assert sum(server.metrics.batches["slow"].counts[1:]) > 0, "some were done together"


def test_what_is_served_together_is_steady_and_what_is_served_alone_is_the_agent_itself() -> None:
    """Whether rounding shows who else was served is chance; that calls have one width is not."""
    for agent in (drawn_agent(), policy()):
        assert Server(agent, Limits(batch=1), width=8).agent is agent
    steady: Any = Server(policy(), Limits(batch=8), width=8).agent
    assert steady.width == 8
    planner: Any = Server(drawn_agent(), Limits(batch=2), width=8).agent
    assert (planner.proposer.width, planner.judge.width) == (8, 8)


def test_an_episode_s_memory_is_its_connection_s_and_a_reset_begins_it_again() -> None:
    with Server(Scripted(), seed=40).running() as url, Client(url) as first, Client(url) as second:
        assert first.reset(5) == 5
        assert [first.act(SEEN)[0] for _ in range(3)] == [7, 8, 9]
        assert second.act(SEEN)[0] == 2 + 40, "no seed was named: the server's next"
        assert second.reset() == 41
        assert first.act(SEEN)[0] == 10
        first.reset(5)
        assert first.act(SEEN)[0] == 7


def test_what_comes_together_is_done_together_and_no_more_than_a_batch() -> None:
    agent, gate = Scripted(), threading.Event()
    server = Server(agent, Limits(batch=4, window=0.3))
    with server.running() as url, ThreadPoolExecutor(9) as pool:
        clients = [Client(url) for _ in range(9)]
        agent.calls.clear()
        agent.gate = gate
        agent.begun.clear()
        asked = [pool.submit(client.act, SEEN) for client in clients]
        assert agent.begun.wait(5)
        while len(server.slow.waiting) + agent.calls[0] < 9:
            time.sleep(0.002)
        gate.set()
        for number, future in enumerate(asked):
            assert future.result(10)[0] in [2 + number for number in range(9)]
        assert max(agent.calls) == 4
        assert sum(agent.calls) == 9
        assert len(agent.calls) == 3
        for client in clients:
            client.close()


def test_nobody_waits_for_company_where_everybody_has_asked_or_where_a_step_is_quick() -> None:
    agent = Scripted(every=3)
    with Server(agent, Limits(batch=4, window=1.0)).running() as url, Client(url) as client:
        client.act(SEEN)
        assert client.timing["queue_ms"] < 900, "one client fills the house"
        with Client(url) as other:
            other.act(SEEN)
            assert other.timing["queue_ms"] > 990, "the other one might still come"
            other.act(SEEN)
            assert other.timing["queue_ms"] < 900, "nothing is asked that company would make cheaper"


def test_quick_steps_overtake_a_slow_one() -> None:
    agent = Scripted(every=2)
    with Server(agent, Limits(batch=1)).running() as url, Client(url) as client, Client(url) as other:
        client.act(SEEN)
        agent.gate = threading.Event()
        agent.begun.clear()
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(other.act, SEEN)
            assert agent.begun.wait(5)
            client.act(SEEN)
            assert not slow.done()
            agent.gate.set()
            slow.result(5)


def test_what_cannot_be_done_in_time_is_refused_before_it_is_begun() -> None:
    agent = Scripted(delay=0.2)
    server = Server(agent, Limits(batch=1))
    with server.running() as url, Client(url) as client:
        client.reset(0)
        agent.calls.clear()
        with pytest.raises(LateError, match="too late, at the present pace") as refused:
            client.act(SEEN, deadline=0.05)
        assert not refused.value.counted
        assert agent.calls == []
        assert client.act(SEEN, deadline=5.0)[0] == 2, "the step was not counted"
        assert server.metrics.requests["late"] == 1


def test_what_has_waited_too_long_is_refused_when_its_turn_comes() -> None:
    agent = Scripted()
    with Server(agent, Limits(batch=1)).running() as url, Client(url) as client, Client(url) as other:
        agent.gate = threading.Event()
        agent.begun.clear()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(other.act, SEEN)
            assert agent.begun.wait(5)
            agent.calls.clear()
            second = pool.submit(client.act, SEEN, 0.15)
            time.sleep(0.3)
            agent.gate.set()
            first.result(5)
            with pytest.raises(LateError, match=r"it would be done .* too late$") as refused:
                second.result(5)
        assert not refused.value.counted
        assert agent.calls == []


def test_what_is_done_too_late_is_refused_and_said_to_have_counted() -> None:
    agent = Scripted()
    with Server(agent, Limits(batch=1)).running() as url, Client(url) as client:
        client.reset(0)
        agent.delay = 0.3
        with pytest.raises(LateError, match="done, but too late") as refused:
            client.act(SEEN, deadline=0.1)
        assert refused.value.counted
        agent.delay = 0.0
        assert client.act(SEEN)[0] == 3


def test_a_pace_is_an_average_that_is_forgotten_and_larger_batches_take_no_less(monkeypatch: Any) -> None:
    now = [0.0]
    monkeypatch.setattr(lanes, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    pace = Pace()
    assert pace.of(3) == 0
    pace.add(1, 1.0)
    pace.add(4, 3.0)
    pace.add(1, 2.0)
    assert pace.of(1) == pytest.approx(1.2)
    assert (pace.of(2), pace.of(9)) == pytest.approx((1.2, 3.0))
    pace.add(2, 5.0)
    assert pace.of(4) == 5.0
    now[0] = 20.0
    assert pace.of(4) == pytest.approx(1.25)


def test_a_full_queue_refuses_and_has_room_again() -> None:
    agent = Scripted()
    server = Server(agent, Limits(batch=1, queue=2))
    with server.running() as url, ThreadPoolExecutor(4) as pool:
        clients = [Client(url) for _ in range(4)]
        agent.gate = threading.Event()
        agent.begun.clear()
        asked = [pool.submit(clients[0].act, SEEN)]
        assert agent.begun.wait(5)
        for number in (1, 2):
            asked.append(pool.submit(clients[number].act, SEEN))
            while len(server.slow.waiting) < number:
                time.sleep(0.002)
        with pytest.raises(BusyError, match="2 requests wait already") as refused:
            clients[3].act(SEEN)
        assert not refused.value.counted
        agent.gate.set()
        for future in asked:
            future.result(5)
        clients[3].act(SEEN)
        for client in clients:
            client.close()


def test_health_and_metrics_are_there_for_whoever_watches() -> None:
    server = Server(Scripted())
    with server.running() as url, Client(url) as client:
        assert get(url, "/healthz") == (200, "OK\n")
        for _ in range(3):
            client.act(SEEN)
        code, text = get(url, "/metrics")
        assert code == 200
        kinds = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
        values = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                found = re.fullmatch(r'([a-z_]+)(\{(?:[a-z]+="[^"]*",?)+\})? ([0-9.e+-]+|\+Inf)', line)
                assert found, line
                values[found[1] + (found[2] or "")] = float(found[3])
                assert re.sub("_(bucket|sum|count)$", "", found[1]) in kinds or found[1] in kinds
        assert values["kedge_serve_clients"] == 1
        assert values['kedge_serve_requests_total{outcome="answered"}'] == 3
        assert values["kedge_serve_request_seconds_count"] == 3
        assert values['kedge_serve_request_seconds_bucket{le="+Inf"}'] == 3
        assert values['kedge_serve_batch_size_bucket{lane="slow",le="1"}'] == 3
        assert get(url, "/nothing")[0] == 404
        assert get(url, "/")[0] == 426


def test_stopping_answers_what_is_in_flight_and_lets_nobody_new_in() -> None:
    agent = Scripted()
    server = Server(agent, Limits(batch=1))
    with server.running() as url, ThreadPoolExecutor(2) as pool:
        clients = [Client(url, patience=0.1) for _ in range(3)]
        agent.gate = threading.Event()
        agent.begun.clear()
        asked = [pool.submit(client.act, SEEN) for client in clients[:2]]
        assert agent.begun.wait(5)
        while not server.slow.waiting:
            time.sleep(0.002)
        next(iter(server.visits)).task.get_loop().call_soon_threadsafe(server.stop)
        while get(url, "/healthz")[0] == 200:
            time.sleep(0.002)
        with pytest.raises(UnreachableError):
            Client(url, patience=0.0)
        agent.gate.set()
        assert sorted(future.result(5)[0] for future in asked) == [2, 3]
        for client in clients:
            with pytest.raises(UnreachableError):
                client.act(SEEN)
    assert server.metrics.closed == {1001: 3}


def test_what_is_not_done_within_the_grace_is_given_up() -> None:
    agent = Scripted()
    server = Server(agent, Limits(batch=1, grace=0.2))
    with server.running() as url, ThreadPoolExecutor(1) as pool:
        client = Client(url, patience=0.1)
        agent.gate = threading.Event()
        agent.begun.clear()
        asked = pool.submit(client.act, SEEN)
        assert agent.begun.wait(5)
        next(iter(server.visits)).task.get_loop().call_soon_threadsafe(server.stop)
        with pytest.raises(BusyError, match="the server stops"):
            asked.result(5)
        agent.gate.set()
        client.close()


def test_who_needs_a_token_and_who_gets_in_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEDGE_SERVE_TOKEN", raising=False)
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.0.1", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))
    assert token_for("127.0.0.1", None) is None
    with pytest.raises(InputError, match="clients need a token"):
        token_for("0.0.0.0", None)
    file = tmp_path / "token"
    file.write_text("a-secret-of-enough-length\n")
    assert token_for("0.0.0.0", file) == "a-secret-of-enough-length"
    monkeypatch.setenv("KEDGE_SERVE_TOKEN", "short")
    with pytest.raises(InputError, match="at least 16"):
        token_for("127.0.0.1", None)
    with pytest.raises(InputError, match="clients need a token"), Server(Scripted()).running("0.0.0.0"):
        pass
    compared: list[tuple[bytes, bytes]] = []
    import hmac

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert lets_in("secret", "Api-Key secret")
    assert lets_in("secret", "bearer secret")
    assert not lets_in("secret", "Basic secret")
    assert not lets_in("secret", "secret")
    assert not lets_in("secret", "Api-Key secret2")
    assert not lets_in("secret", "")
    assert len(compared) == 6
    assert {len(digest) for pair in compared for digest in pair} == {32}, "what is compared is of one length"


def test_without_the_token_there_is_health_alone() -> None:
    token = "a-secret-of-enough-length"
    with Server(Scripted(), token=token).running() as url:
        with pytest.raises(UnauthorisedError, match="Authorization: Api-Key"):
            Client(url)
        with pytest.raises(UnauthorisedError):
            Client(url, token + "x")
        with Client(url, token) as client:
            client.act(SEEN)
        Openpi(url, token).socket.close()
        assert get(url, "/healthz")[0] == 200
        assert get(url, "/metrics")[0] == 401
        assert get(url, "/metrics", Authorization=f"Bearer {token}")[0] == 200


def test_one_too_many_is_told_so_and_a_page_in_a_browser_gets_nothing() -> None:
    with Server(Scripted(), Limits(clients=2)).running() as url:
        with Client(url) as client, Client(url):
            with pytest.raises(UnreachableError, match="503"):
                Client(url, patience=0.0)
            client.act(SEEN)
        until = time.monotonic() + 5
        while "kedge_serve_clients 0" not in get(url, "/metrics")[1]:
            assert time.monotonic() < until
        with pytest.raises(ConnectionRefusedError, match="403"), Raw(url, Origin="http://example.org"):
            pass
        with Client(url) as client:
            client.act(SEEN)


def test_a_client_that_says_nothing_is_let_go_and_finds_its_episode_again() -> None:
    server = Server(Scripted(), Limits(idle=0.2))
    with server.running() as url, Client(url) as client:
        client.reset(3)
        client.act(SEEN)
        time.sleep(0.6)
        assert server.metrics.closed == {1001: 1}
        assert client.act(SEEN)[0] == 2 + 3 + 1


def test_an_answer_that_was_lost_is_given_again_and_not_made_again() -> None:
    with Server(Scripted()).running() as url:
        first = Openpi(url)
        name = first.metadata["session"]
        first.infer({"reset": True, "seed": 1, "id": 1})
        before = first.infer({"observation": SEEN, "id": 2})
        first.socket.socket.close()  # no word of farewell
        second = Openpi(url)
        assert second.infer({"resume": name}) == {"resumed": True, "step": 1}
        again = second.infer({"observation": SEEN, "id": 2})
        assert again["actions"].tolist() == before["actions"].tolist()
        assert again["server_timing"] == before["server_timing"]
        after = second.infer({"observation": SEEN, "id": 3})
        assert after["actions"][0, 0] == before["actions"][0, 0] + 1
        third = Openpi(url)
        assert third.infer({"resume": name})["step"] == 2, "taken from a connection that is still there"
        with pytest.raises(ConnectionClosed, match="goes on over another connection"):
            second.infer({"observation": SEEN, "id": 4})
        third.socket.close()
        fourth = Openpi(url)
        with pytest.raises(RuntimeError, match="lost"):
            fourth.infer({"resume": name})
        assert fourth.infer({"observation": SEEN})["actions"].shape == (1, 3), "the connection stays"
        fourth.socket.close()


def test_an_agent_that_fails_costs_who_asked_a_connection_and_nobody_else_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(Scripted(), Limits(batch=1)).running() as url, Client(url) as client, Client(url) as other:
        other.act(SEEN)

        def broken(*args: Any) -> Any:
            raise ZeroDivisionError("as if it were broken")

        client.reset(0)
        with monkeypatch.context() as patch:
            patch.setattr(Steps, "together", staticmethod(broken))
            with pytest.raises(ServerFailedError, match="log says how"):
                client.act(SEEN)
        assert client.act(SEEN)[0] == 2, "what failed has left no trace"
        assert "as if it were broken" in capsys.readouterr().err
        assert other.act(SEEN)[0] == 3


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return program(capsys)


def test_the_command_says_what_is_wrong_in_one_line(run: Run, tmp_path: Path) -> None:
    assert "there is no such folder" in run("serve", "nowhere")[2]
    (tmp_path / "recipe.json").write_text("{}")
    for flags, said in (
        (["--port", "70000"], "--port must be from 0"),
        (["--width", "0"], "--width must be at least 1"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--host", "0.0.0.0"], "clients need a token"),
        (["--token-file", "nothing"], "--token-file nothing: cannot be read"),
    ):
        code, _, err = run("serve", str(tmp_path), *flags)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err


def test_a_port_that_is_taken_is_one_line() -> None:
    with Server(Scripted()).running() as url:
        port = int(url.rpartition(":")[2])
        taken = pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be had")
        with taken, Server(Scripted()).running(port=port):
            pass


PROGRAM = """
import sys
import kedge, kedge.run.cli
sys.path.insert(0, {tests!r})
from run.served import Scripted
kedge.load = lambda folder: Scripted(delay=0.3)
sys.exit(kedge.run.cli.main(["serve", {run!r}, "--port", "0", "--json", "--out", {out!r}]))
"""


def test_sigterm_answers_what_is_in_flight_and_ends_with_0_and_the_counts(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    tests, out = str(Path(__file__).resolve().parents[1]), tmp_path / "served.json"
    code = PROGRAM.format(tests=tests, run=str(tmp_path), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    found = re.search(r"serving .* at (ws://\S+); Ctrl-C stops it", said)
    assert found, said + process.stderr.read()
    with ThreadPoolExecutor(1) as pool, Client(found[1], patience=0.1) as client:
        client.reset(0)
        asked = pool.submit(client.act, SEEN)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert asked.result(5)[0] == 2
        with pytest.raises(UnreachableError):
            client.act(SEEN)
    stdout, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(stdout)["requests"] == {"reset": 1, "answered": 1}
    assert json.loads(out.read_text()) == {"requests": {"reset": 1, "answered": 1}, "closed": {"1001": 1}}


def test_what_is_packed_is_what_was_meant() -> None:
    assert unpack(pack({"x": np.arange(3)}))["x"].tolist() == [0, 1, 2]
