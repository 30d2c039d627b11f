"""A plain convolutional network over the tokens of a trajectory: one resolution, dilated kernels, any horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from kedge.cond import Cond
from kedge.nets.activations import Mish, mish
from kedge.nets.contract import check_input, check_sizes
from kedge.nets.embeddings import Conditioning

GROUPS = 8


class ConvNet(nn.Module):
    """Residual blocks of dilated convolutions at the full resolution: what a U-Net is without its U. The dilations are
    those of temporal convolutional networks (Bai et al., "An empirical evaluation of generic convolutional and
    recurrent networks for sequence modeling", 2018, section 3.2), centred here, for a plan has no past only.

    A block of dilation d is

        h = mish(norm(conv_d(x))) + linear(mish(embedding))
        x = x + mish(norm(conv_d(h)))

    with kernels of size K and norms over 8 groups of channels, and it carries a token (K - 1) d further each way, so
    that all blocks together reach `reach = (K - 1) (sum of dilations)` tokens: 60 as it stands, so 32 tokens see each
    other twice over. Tokens beyond the ends are zeros. Nothing starts at zero.

    Called as `net(x, t, cond=None)`, and returns a tensor of x's shape (but for `out`):

    x:    `[B, T, dim]`, any T
    t:    c_noise = 1/4 ln(noise scale), `[B]`, or `[B, T]`: one level a token, each token hearing its own
    cond: None (all fields null), or a `Cond` with the fields given here

    dim:       D, of a transition
    width:     channels, and width of the embedding; a multiple of 8
    dilations: of the blocks, one each
    kernel:    K, odd
    features:  of t: "sinusoidal" or "fourier", `width` of them
    cond:      width of each field of the condition
    out:       width of the output, where it is not `dim`
    """

    def __init__(
        self,
        dim: int,
        width: int = 64,
        dilations: Sequence[int] = (1, 2, 4, 8),
        *,
        kernel: int = 5,
        features: str = "sinusoidal",
        cond: Mapping[str, int] | None = None,
        out: int | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.out = dim, dim if out is None else out
        check_sizes("ConvNet", dim=dim, out=self.out, width=width, kernel=kernel, number_of_dilations=len(dilations))
        check_sizes("ConvNet", **{f"dilations[{i}]": d for i, d in enumerate(dilations)})
        if width % GROUPS:
            raise ValueError(f"ConvNet: width must be a multiple of {GROUPS} (the groups of its norms), got {width}")
        if kernel % 2 == 0:
            raise ValueError(f"ConvNet: kernel must be odd, so that a token stays in its middle, got {kernel}")
        self.reach = (kernel - 1) * sum(dilations)
        self.hears = Conditioning("ConvNet", features, width, 4 * width, width, cond)
        self.enter = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(_Block(width, kernel, d) for d in dilations)
        self.leave = nn.Linear(width, self.out)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """`[B, T, out]`."""
        check_input("ConvNet", x, t, (None, self.dim))
        embedding = mish(self.hears(t, cond))
        heard = embedding if t.ndim == 2 else embedding[:, None]  # [B, T or 1, width]
        h = self.enter(x).transpose(1, 2)
        for block in self.blocks:
            h = block(h, heard)
        return self.leave(h.transpose(1, 2))


class _Block(nn.Module):
    """Two convolutions of one dilation, the embedding added between them, and the input at the end."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.first = _conv(width, kernel, dilation)
        self.hears = nn.Linear(width, width)
        self.second = _conv(width, kernel, dilation)

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        return x + self.second(self.first(x) + self.hears(heard).transpose(1, 2))


def _conv(width: int, kernel: int, dilation: int) -> nn.Sequential:
    """Conv, GroupNorm, Mish; as many tokens as before."""
    conv = nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2 * dilation, dilation=dilation)
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, width), Mish())
