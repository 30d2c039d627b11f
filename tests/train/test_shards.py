"""Processes that keep a share of the parameters each: the numbers of one process, and checkpoints for any number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from kedge.errors import InputError
from kedge.train import CheckpointError, Checkpoints, Muon, Part, Shadow, load_tree, load_weights
from kedge.train.checkpoint import split
from kedge.train.crew import ALONE
from kedge.train.pieces import read_pieces, write_pieces
from kedge.train.shards import Sharding, fits, is_shard, whole
from kedge.train.update import Updater
from train.launched import launched, states, table
from train.sharded import STEPS, Net, held, trainer

MUON = Muon(1e-2, warmup=0, weight_decay=0.1, convolutions=True)
X = torch.sin(torch.arange(24, dtype=torch.float64)).reshape(8, 3)
SCRIPT = Path(__file__).with_name("sharded.py")


def same(run: Path, alone: Path, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """The figures of every step, and the weights in the end."""
    (names, shared), (names_alone, expected) = table(run), table(alone)
    assert names == names_alone
    torch.testing.assert_close(shared, expected, rtol=rtol, atol=atol, equal_nan=True)
    found, wanted = (load_weights(folder / "weights.safetensors") for folder in (run, alone))
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)


def seen(run: Path) -> Tensor:
    return torch.tensor([[float(x) for x in line.split()] for line in (run / "seen").read_text().splitlines()])


@pytest.mark.timeout(300)
def test_two_processes_train_in_shards_what_one_trains_whole(tmp_path: Path) -> None:
    trainer(tmp_path / "mixed", 2).train()
    both = launched(SCRIPT, 2, "all", tmp_path)
    said = [one.communicate(timeout=280) for one in both]
    assert [one.returncode for one in both] == [1, 9], said
    first, second = (json.loads(out) for out, _ in said)

    alone = trainer(tmp_path / "plain alone", accumulate=2)
    alone.train()
    same(tmp_path / "plain", tmp_path / "plain alone")
    torch.testing.assert_close(seen(tmp_path / "plain"), seen(tmp_path / "plain alone"), rtol=1e-6, atol=1e-6)
    assert first["moved"] == second["moved"]
    names, figures = table(tmp_path / "plain")
    assert (figures[-1, [names.index("fit/clipped"), names.index("critic/clipped")]] > 0).all()

    # the head of 16 numbers is whole in both, as is what is kept of it; all else is divided
    whole, numbers = held(alone), 8
    for name in ("parameters", "optimisers", "shadows"):
        assert first["held"][name] + second["held"][name] == whole[name] + 16 * numbers
    # rows 2 of 3, 7 of 13, 2 of 3, the one there is; 3 of 5, the one there is; 2 of 3
    assert first["held"]["parameters"] == (2 * 7 + 7 * 7 + 2 * 14 + 14 + 16 + 3 * 4 + 6 + 2 * 4) * numbers

    trainer(tmp_path / "single alone", 4, single=True).train()
    same(tmp_path / "single", tmp_path / "single alone", rtol=1e-5, atol=1e-5)

    (words, tensors), (words_again, again) = (states(tmp_path / name, 4) for name in ("whole", "broken"))
    assert words == words_again
    assert [name for name in tensors if not torch.equal(tensors[name], again[name])] == []
    assert not torch.equal(tensors["rng/cpu"], tensors["rng/others/1/cpu"])

    one = trainer(tmp_path / "mixed alone", STEPS)
    one.train()
    assert {path.name for path in (tmp_path / "mixed/state/step-00000005").iterdir()} == {
        "shard-00001-model-00001-of-00001.safetensors",
        "shard-00002-model-00001-of-00001.safetensors",
        "state.json",
    }
    trainer(tmp_path / "mixed").train()  # one, two, two in shards, one
    same(tmp_path / "mixed", tmp_path / "mixed alone")
    (_, found), (_, expected) = (states(tmp_path / name, STEPS) for name in ("mixed", "mixed alone"))
    assert {name for name in found if not name.startswith("rng/")} == {n for n in expected if not n.startswith("rng/")}
    for name in expected:
        if not name.startswith("rng/"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)

    refused = first["refused"]
    assert refused == second["refused"]
    assert refused["scalar"].startswith("a: a Module cannot be sharded (")
    assert refused["read"].startswith("a: its loss reads parameters without calling the module that holds them")
    assert "processes differ in weights" in refused["differs"]
    assert "do not go together" in refused["compiled"]

    (warning,) = first["warned"]
    assert "step-00000002 could not be written (process 1: no space left)" in warning
    assert second["warned"] == []
    assert [path.name for path in Checkpoints(tmp_path / "full/state").folders()] == ["step-00000000", "step-00000004"]

    assert said[0][1].splitlines()[-1].startswith("kedge: process 0 of 2: another process of this training has ended")
    assert [path.name for path in sorted((tmp_path / "killed/state").iterdir())] == [
        ".writing-step-00000002",
        "step-00000000",
    ]
    trainer(tmp_path / "killed").train()
    same(tmp_path / "killed", tmp_path / "mixed alone")

    broken(tmp_path / "mixed/state", tmp_path / "mixed/state/step-00000005")


def broken(folder: Path, sharded: Path) -> None:
    """A checkpoint of which a piece is missing, one too many, or nothing is left."""
    piece = sharded / "shard-00002-model-00001-of-00001.safetensors"
    (sharded / "shard-00003-model-00001-of-00001.safetensors").write_bytes(piece.read_bytes())
    with pytest.raises(CheckpointError, match=r"state.json names 2 pieces, and 3 are there"):
        load_tree(sharded)
    (sharded / "shard-00003-model-00001-of-00001.safetensors").unlink()
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"shard-00002.*was altered"):
        load_tree(sharded)
    piece.unlink()
    with pytest.raises(CheckpointError, match=r"of its 2 pieces shard-00002-.*safetensors is missing"):
        load_tree(sharded)
    state = json.loads((sharded / "state.json").read_text())
    (sharded / "state.json").write_text(json.dumps(state | {"pieces": {}}))
    with pytest.raises(CheckpointError, match=r"state.json names 0 pieces, and 1 are there"):
        load_tree(sharded)
    shutil.rmtree(folder / f"step-{STEPS:08d}")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        trainer(folder.parent).train()


@pytest.fixture
def group_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharding]:
    """Shards with all rows in one process: the same code, without anybody to wait for."""
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    sharding = object.__new__(Sharding)
    sharding.mesh, sharding.networks = init_device_mesh("cpu", (1,)), []
    yield sharding
    dist.destroy_process_group()


def moved(net: nn.Module, sharding: Sharding | None) -> tuple[nn.Module, Updater, Shadow]:
    """A net after three steps of Muon and AdamW, with its average."""
    shadow = Shadow(0.9)
    part = Part(net, lambda x, tick: (net(x, x[:, 0]).square().mean(1), {}), MUON, shadows=(shadow,), name="a")
    if sharding is not None:
        sharding.shard((net,), "a")
        sharding.follow(shadow.module, net)
        shadow.pair()
    updater = Updater(part, 0, 0, 3, 1, nullcontext, ALONE, sharding)
    for step in range(3):
        updater.update([X], step)
    return net, updater, shadow


def test_rows_move_as_the_whole_does_and_come_back_from_the_disk(group_of_one: Sharding, tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = Net(0.0).double()
    (plain, _, average), (sharded, updater, followed) = moved(deepcopy(net), None), moved(net, group_of_one)
    group_of_one.fold()
    for found, expected in ((sharded, plain), (followed.module, average.module)):
        state = {name: whole(value) for name, value in found.state_dict().items()}
        assert all(is_shard(value) for value in found.state_dict().values())
        torch.testing.assert_close(state, dict(expected.state_dict()), rtol=1e-12, atol=1e-15)

    _, tensors = split(updater.state())
    assert [path.name for path in write_pieces(tmp_path, tensors, ALONE)] == [
        "shard-00001-model-00001-of-00001.safetensors"
    ]
    back = read_pieces(tmp_path)
    assert back.keys() == tensors.keys()
    assert not any(is_shard(value) for value in back.values())
    assert all(torch.equal(value, whole(tensors[name])) for name, value in back.items())
    home = dict(net.named_parameters())["kernel.weight"]
    rows = read_pieces(tmp_path, lambda name, size: home if "kernel.weight" in name and fits(size, home) else None)
    assert {name for name, value in rows.items() if is_shard(value)} == {
        "module/kernel.weight", "optimisers/0/kernel.weight/momentum_buffer", "shadows/0/module/kernel.weight"
    }  # fmt: skip
    assert all(torch.equal(whole(value), back[name]) for name, value in rows.items())


def test_one_process_has_nobody_to_share_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is one process.*torchrun --nproc-per-node 2"):
        trainer(tmp_path, shard=True)


@pytest.mark.slow
def test_any_number_of_processes_goes_on(tmp_path: Path) -> None:
    """Two, three, one, four: the same weights, moments, averages and data as one that did all of it."""
    for size, steps in ((2, 2), (3, 4), (1, 5), (4, 6)):
        if size == 1:
            trainer(tmp_path / "run", steps).train()
            continue
        many = launched(SCRIPT, size, steps, tmp_path / "run")
        said = [one.communicate(timeout=280) for one in many]
        assert [one.returncode for one in many] == [0] * size, said
    trainer(tmp_path / "alone").train()
    same(tmp_path / "run", tmp_path / "alone")
    (_, found), (_, expected) = (states(tmp_path / name, STEPS) for name in ("run", "alone"))
    for name in expected:
        if not name.startswith("rng/"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)
    assert len(list((tmp_path / "run/state/step-00000006").glob("shard-*"))) == 4
