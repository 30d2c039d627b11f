"""`torch.compile` and `torch.export`, each in a process of its own: checked annotations would break the graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forked import Forks, forking

SCRIPT = """
import torch
from torch import nn
from kedge.cond import Cond
from kedge.nets import MLP, ConvNet, DiT1D, Fourier, UNet1D

def grown(net):
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=.2)
    return net.double().eval()

torch.set_num_threads(1)
torch.manual_seed(0)
net = grown({net})
x, t = torch.randn(3, 8, 4).double(), torch.randn(3).double()
cond = Cond.of(goal=torch.randn(3, 2).double())
"""
COMPILE = """
compiled = torch.compile(net, fullgraph=True, backend="eager")
args = x, torch.randn(3, 8).double(), cond
torch.testing.assert_close(compiled(*args), net(*args), rtol=0, atol=1e-12)
"""
EXPORT = """
B = torch.export.Dim("B", min=2)
shapes = ({0: B}, {0: B}, [{"goal": {0: B}}, {"goal": {0: B}}])
exported = torch.export.export(net, (x, t, cond), dynamic_shapes=shapes).module()
wider = torch.randn(5, 8, 4).double(), torch.randn(5).double(), Cond.of(goal=torch.randn(5, 2).double())
for args in (wider, (*wider[:2], wider[2].without())):
    torch.testing.assert_close(exported(*args), net(*args), rtol=0, atol=1e-12)
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with forking("torch._dynamo", "torch.export", "kedge.nets") as found:
        yield found


@pytest.mark.parametrize("work", [COMPILE, EXPORT], ids=["compile", "export"])
@pytest.mark.parametrize(
    "net",
    [
        "MLP((8, 4), 32, 2, embed=16, cond={'goal': 2})",
        "DiT1D(4, 32, 2, 2, embed=16, cond={'goal': 2})",
        "UNet1D(4, 16, (1, 2), attention=True, cond={'goal': 2})",
        "Fourier.around(ConvNet, 4, 16, (1, 2), cond={'goal': 2})",
    ],
    ids=["MLP", "DiT1D", "UNet1D", "Fourier-ConvNet"],
)
def test_one_graph_holds_the_whole_network(net: str, work: str, forks: Forks) -> None:
    process = forks.start("-c", SCRIPT.format(net=net) + work)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said[-2000:]
