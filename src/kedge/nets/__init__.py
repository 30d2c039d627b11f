"""Networks, a file an architecture. All are called alike: `net(x, t, cond=None)` returns a tensor of x's shape, where
`t` is what the network hears of the noise level (`kedge.nets.contract` states it in full).
"""

from __future__ import annotations

from kedge.nets.dit1d import DiT1D
from kedge.nets.mlp import MLP
from kedge.nets.unet1d import UNet1D

__all__ = ["MLP", "DiT1D", "UNet1D"]
