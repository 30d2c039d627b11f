"""How a network hears the noise level and the condition: both become one vector a sample, or one a token."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.nets.activations import Mish
from kedge.nets.contract import check_cond, check_sizes


class Frequencies(nn.Module):
    """`[sin(w t), cos(w t)]` for the frequencies `w` in a buffer: `[...] -> [..., 2 n]`.

    The buffer is saved with the weights, which make no sense with other frequencies.
    """

    w: Tensor

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.register_buffer("w", w)

    def forward(self, t: Tensor) -> Tensor:
        """All sines, then all cosines."""
        angle = t.to(self.w.dtype)[..., None] * self.w
        return torch.cat([angle.sin(), angle.cos()], -1)


def sinusoidal(count: int, longest: float = 8.0, shortest: float = 0.25) -> Frequencies:
    """`count` features whose periods fall geometrically from `longest` to `shortest`, in units of c_noise.

    c_noise spans about 3.6: a period of 8 keeps the slowest sine monotone there; a period of 1/4 is one e-fold of the
    noise scale, about as near as two levels of a grid come.
    """
    n = _pairs("sinusoidal", count)
    period = torch.logspace(math.log2(longest), math.log2(shortest), n, base=2.0, dtype=torch.float64)
    return Frequencies((2 * math.pi / period).to(torch.get_default_dtype()))


def random_fourier(count: int, bandwidth: float = 1.0) -> Frequencies:
    """`count` features at random frequencies `w = 2 pi bandwidth N(0, 1)` (Tancik et al., "Fourier features let
    networks learn high frequency functions in low dimensional domains", 2020), drawn once from torch's seed.

    `bandwidth` is in cycles a unit of c_noise: 1 makes levels that are an e-fold of noise scale apart (1/4) correlate
    by exp(-(2 pi / 4)^2 / 2) = .29.
    """
    return Frequencies(2 * math.pi * bandwidth * torch.randn(_pairs("random_fourier", count)))


FEATURES = {"sinusoidal": sinusoidal, "fourier": random_fourier}


def _pairs(what: str, count: int) -> int:
    if count < 2 or count % 2:
        raise ValueError(f"{what}: the number of features must be even and at least 2, got {count}")
    return count // 2


class FieldEmbedding(nn.Module):
    """A field of the condition: Linear, SiLU, Linear, and a learned null vector where it is not kept."""

    def __init__(self, field: int, width: int) -> None:
        super().__init__()
        self.value = nn.Sequential(nn.Linear(field, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, value: Tensor, keep: Tensor) -> Tensor:
        """`[B, d]` and `[B]` to `[B, width]`."""
        return torch.where(keep[:, None], self.value(value), self.null)


class Conditioning(nn.Module):
    """`(t, cond)` to the vector that a network is conditioned on: `[B]` to `[B, E]`, `[B, T]` to `[B, T, E]`.

    The level goes through its features, then Linear, Mish, Linear; the embedded fields of the condition are added.

    net:      name of the network, for error messages
    features: "sinusoidal" or "fourier", `count` of them
    hidden:   width between the two linear layers
    width:    E
    cond:     width of each field of the condition
    """

    def __init__(
        self, net: str, features: str, count: int, hidden: int, width: int, cond: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        if features not in FEATURES:
            raise ValueError(f"{net}: unknown features {features!r}; choose one of {', '.join(FEATURES)}")
        self.net = net
        self.widths = dict(cond or {})
        check_sizes(net, **{f"width of condition field {name!r}": size for name, size in self.widths.items()})
        self.level = nn.Sequential(
            FEATURES[features](count), nn.Linear(count, hidden), Mish(), nn.Linear(hidden, width)
        )
        # Prefixed: a field may be called `type` or `keys`, which a module dictionary could not hold.
        self.fields = nn.ModuleDict(
            {f"field_{name}": FieldEmbedding(size, width) for name, size in self.widths.items()}
        )

    def forward(self, t: Tensor, cond: Cond | None = None) -> Tensor:
        """`[B, E]` or `[B, T, E]`, as `t` is `[B]` or `[B, T]`."""
        embedding = self.level(t)
        if cond is not None:
            check_cond(self.net, self.widths, cond, t.shape[0])
        for name in self.widths:
            field = self.fields[f"field_{name}"]
            if cond is None:
                embedding = embedding + field.null
            else:
                value = field(cond.fields[name], cond.keep[name])
                embedding = embedding + (value if t.ndim == 1 else value[:, None])
        return embedding


def positions(count: int, width: int) -> Tensor:
    """Sinusoidal code of the token's index (Vaswani et al., "Attention is all you need", 2017, section 3.5): `[count,
    width]`, sines first, frequencies 1 to 1e-4.
    """
    n = _pairs("positions", width)
    w = torch.logspace(0, -4, n, dtype=torch.float64)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * w
    return torch.cat([angle.sin(), angle.cos()], -1).to(torch.get_default_dtype())
