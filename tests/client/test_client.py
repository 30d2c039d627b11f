"""The client: what it loads, what goes over the wire, and how it gets over lost connections."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kedge.client import Client, EpisodeLostError, NoAnswerError, ObservationError, UnreachableError
from kedge.client.wire import CODES, WireError, pack, unpack
from kedge.run.serve import Limits, Server
from kedge.run.serve.request import RequestError, read
from run.served import Openpi, Scripted

SEEN = np.array([1.0, 2.0, 3.0])

ALONE = """
import json, sys
allowed = {"numpy", "websockets", "msgpack", "kedge"}

class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"there is no {name} on this machine", name=name)

sys.meta_path.insert(0, Nothing())
from kedge.client import Client
with Client(sys.argv[1]) as client:
    client.reset(4)
    action = client.act([1.0, 2.0, 3.0])
print(json.dumps([action.tolist(), sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_it_works_where_there_is_no_torch_and_loads_three_packages_alone() -> None:
    with Server(Scripted()).running() as url:
        done = subprocess.run([sys.executable, "-c", ALONE, url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    action, loaded = json.loads(done.stdout)
    assert action == [6.0, 8.0, 10.0]
    assert {"numpy", "websockets", "msgpack", "kedge"} <= set(loaded)
    assert "torch" not in loaded


@given(st.sampled_from(sorted(CODES)).flatmap(lambda code: arrays(CODES[code], array_shapes(max_dims=4, max_side=3))))
def test_arrays_come_back_as_they_were_and_are_what_openpi_s_clients_write(x: np.ndarray) -> None:
    back = unpack(pack({"x": x}))["x"]
    assert (back.dtype, back.shape, back.tobytes()) == (x.dtype, x.shape, x.tobytes())
    theirs = Openpi.unpacked(pack({"x": x}))["x"]
    assert (theirs.dtype, theirs.shape, theirs.tobytes()) == (x.dtype, x.shape, x.tobytes())
    assert msgpack.packb({"x": x}, default=Openpi.coded) == pack({"x": x})
    one = x.reshape(-1)[0]
    assert unpack(pack({"x": one}))["x"].tobytes() == one.tobytes()


def test_the_other_byte_order_is_turned_and_objects_are_not_sent() -> None:
    x = np.arange(3, dtype=">f8")
    assert unpack(pack({"x": x}))["x"].tolist() == [0, 1, 2]
    for wrong in (np.array([None]), np.array(["a"]), np.array([1j]), object()):
        with pytest.raises(TypeError, match="cannot be sent"):
            pack({"x": wrong})


MESSAGE = pack({"observation": SEEN, "deadline_ms": 5.0, "id": 3})


@given(st.one_of(st.binary(max_size=80), st.integers(0, len(MESSAGE) - 1).map(lambda n: MESSAGE[:n])), st.data())
def test_whatever_arrives_is_a_message_or_an_error_of_one_line(data: bytes, draw: Any) -> None:
    broken = bytearray(MESSAGE)
    broken[draw.draw(st.integers(0, len(MESSAGE) - 1))] = draw.draw(st.integers(0, 255))
    for some in (data, bytes(broken)):
        found, said = None, ""
        try:
            found = read(some, 3)
        except (WireError, RequestError) as error:
            said = str(error)
        assert "\n" not in said
        assert found is None or found.observation is None or np.isfinite(found.observation).all()


class Cut:
    """Stands between client and server, and cuts their connection after every so many bytes of answers."""

    def __init__(self, url: str, every: int) -> None:
        host, _, port = url.removeprefix("ws://").rpartition(":")
        self.target, self.every, self.cuts = (host, int(port)), every, 0
        self.ends: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target)
                self.ends = [near, far]
                threads = [
                    threading.Thread(target=self._pass, args=args, daemon=True)
                    for args in ((near, far, 2**40), (far, near, self.every))
                ]
                for thread in threads:
                    thread.start()

    def drop(self) -> None:
        """The connection that is there now."""
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass(self, here: socket.socket, there: socket.socket, left: int) -> None:
        with suppress(OSError):
            while data := here.recv(1024):
                there.sendall(data[:left])
                left -= len(data)
                if left <= 0:
                    self.cuts += 1
                    break
        for end in (here, there):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def cut(url: str, every: int) -> Iterator[Cut]:
    made = Cut(url, every)
    try:
        yield made
    finally:
        made.listener.close()


def test_an_episode_goes_on_over_lost_connections_as_if_none_had_been_lost() -> None:
    """Cut in the middle of answers, and between them: no step is lost, and none is done twice."""
    agent = Scripted(every=3)
    with Server(agent).running() as url, cut(url, 1900) as between, Client(between.url) as client:
        client.reset(100)
        for step in range(40):
            assert client.act(SEEN + step)[0] == 2 * (1 + step) + 100 + step
        assert between.cuts >= 2


def test_an_episode_that_the_server_has_forgotten_is_said_to_be_lost_and_another_begins() -> None:
    server = Server(Scripted(), Limits(remember=0.0))
    with server.running() as url, cut(url, 1500) as between, Client(between.url) as client:
        client.reset(5)
        for _ in range(3):
            client.act(SEEN)
        between.drop()
        with pytest.raises(EpisodeLostError, match="begin a new episode"):
            client.act(SEEN)
        assert client.reset(6) == 6
        assert client.act(SEEN)[0] == 2 + 6


def test_a_server_that_does_not_answer_and_one_that_is_gone_are_errors_of_their_own() -> None:
    agent = Scripted()
    with Server(agent, Limits(batch=1)).running() as url:
        client = Client(url, timeout=0.5, patience=0.2)
        client.reset(0)
        agent.gate = threading.Event()
        with pytest.raises(NoAnswerError, match=r"within 0\.5 s"):
            client.act(SEEN)
        agent.gate.set()
        client.timeout = 10.0
        assert client.act(SEEN)[0] == 3, "the answer that came too late belongs to nothing"
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="cannot be reached"):
        client.act(SEEN)
    assert time.monotonic() - began < 5
    with pytest.raises(UnreachableError):
        Client("ws://127.0.0.1:9", patience=0.0)


def test_what_the_server_would_hang_up_for_is_said_before_it_is_sent() -> None:
    server = Server(Scripted())
    with server.running() as url, Client(url) as client:
        for wrong in ([1.0, 2.0], [[1.0, 2.0, 3.0]], [1.0, float("nan"), 3.0]):
            with pytest.raises(ObservationError):
                client.act(wrong)
        assert client.act([1, 2, 3])[0] == 2
        assert not server.metrics.closed
