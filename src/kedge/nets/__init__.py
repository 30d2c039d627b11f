"""Networks, a file an architecture. All are called alike: `net(x, t, cond=None)` returns a tensor of x's shape, where
`t` is what the network hears of the noise level (`kedge.nets.contract` states it in full). Built with `out`, a network
reads more than it writes, as behind `Fourier`'s features; `HalfUNet1D` returns numbers of the whole trajectory.
"""

from __future__ import annotations

from kedge.nets.convnet import ConvNet
from kedge.nets.dit1d import DiT1D
from kedge.nets.features import Atlas, Fourier, Octaves
from kedge.nets.half_unet1d import HalfUNet1D
from kedge.nets.mlp import MLP
from kedge.nets.prompted import PromptTransformer
from kedge.nets.slimmable import Slimmable, multiply_adds
from kedge.nets.two_heads import TwoHeads
from kedge.nets.unet1d import UNet1D
from kedge.nets.with_std import WithStd

__all__ = [
    "MLP", "Atlas", "ConvNet", "DiT1D", "Fourier", "HalfUNet1D", "Octaves", "PromptTransformer", "Slimmable",
    "TwoHeads", "UNet1D", "WithStd", "multiply_adds",
]  # fmt: skip
