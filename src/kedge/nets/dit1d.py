"""A transformer over the tokens of a trajectory, conditioned through its layer norms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from kedge.cond import Cond
from kedge.nets.activations import Mish
from kedge.nets.contract import check_input, check_sizes
from kedge.nets.embeddings import Conditioning, positions


class DiT1D(nn.Module):
    """The planner's network of Diffusion Veteran (Lu et al., "What makes a good diffusion planner for decision
    making?", 2025; CleanDiffuser's `DiT1d`): a transformer with adaLN-zero (Peebles and Xie, "Scalable diffusion models
    with transformers", 2023, section 3.2). 2.6 M parameters as it stands.

    The tokens are embedded linearly and get a sinusoidal code of their index. `c` is the embedding of level and
    condition after Linear, Mish, Linear, Mish, SiLU, and each block computes, with six modulations linear in c,

        x = x + gate_1 attention(norm(x) (1 + scale_1) + shift_1)
        x = x + gate_2 mlp(norm(x) (1 + scale_2) + shift_2)

    All modulations and the output layer start at zero: at first the output is exactly 0. The published DV code differs
    in two ways, none of which moves a parameter: its first residual adds to the modulated norm, not to x; and its codes
    of the index lose all frequencies but the fastest to an integer type. Here both are as in the papers.

    Torch's fused attention has no forward-mode and no second derivatives on every device: for those, call the network
    under `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.

    Called as `net(x, t, cond=None)`, and returns a tensor of x's shape (but for `out`):

    x:    `[B, T, dim]`, any T up to `longest`
    t:    c_noise = 1/4 ln(noise scale), `[B]`, or `[B, T]`: one level a token, each token modulated by its own
    cond: None (all fields null), or a `Cond` with the fields given here

    dim:      D, of a transition
    width:    of the tokens
    depth:    number of blocks
    heads:    of the attention; DV has one for each 64 of width
    embed:    width of the embedding of level and condition
    dropout:  in attention and blocks
    features: of t: "fourier" or "sinusoidal", `embed / 4` of them
    longest:  the largest T
    cond:     width of each field of the condition
    out:      width of the output, where it is not `dim`
    """

    position: Tensor

    def __init__(
        self,
        dim: int,
        width: int = 256,
        depth: int = 2,
        heads: int = 4,
        *,
        embed: int = 128,
        dropout: float = 0.0,
        features: str = "fourier",
        longest: int = 1024,
        cond: Mapping[str, int] | None = None,
        out: int | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.out = dim, dim if out is None else out
        check_sizes("DiT1D", dim=dim, out=self.out, width=width, depth=depth, heads=heads, embed=embed, longest=longest)
        if width % heads:
            raise ValueError(f"DiT1D: width {width} is not a multiple of heads {heads}")
        if embed % 8:
            raise ValueError(f"DiT1D: embed must be a multiple of 8, got {embed}")
        self.enter = nn.Linear(dim, width)
        self.hears = Conditioning("DiT1D", features, embed // 4, embed, embed, cond)
        self.context = nn.Sequential(nn.Linear(embed, width), Mish(), nn.Linear(width, width), Mish(), nn.SiLU())
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, self.out)
        # Not saved: it is a formula, and a checkpoint then loads at another `longest`.
        self.register_buffer("position", positions(longest, width), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """As the sources: Xavier-uniform matrices, biases zero; small ones before the modulations; zero at the ends."""
        for layer in (layer for part in (self.enter, self.blocks) for layer in part.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in self.context:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        modulations = [module.modulation for module in self.blocks if isinstance(module, _Block)]
        for layer in (*modulations, self.modulation, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """`[B, T, out]`."""
        check_input("DiT1D", x, t, (None, self.dim))
        tokens, longest = x.shape[1], self.position.shape[0]
        if tokens > longest:
            raise ValueError(f"DiT1D: x has {tokens} tokens, but longest is {longest}; build the network with more")
        embedding = self.hears(t, cond)
        c = self.context(embedding if t.ndim == 2 else embedding[:, None])  # [B, T or 1, width]
        h = self.enter(x) + self.position[:tokens]
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(c).chunk(2, -1)
        return self.leave(_modulated(h, shift, scale))


class _Block(nn.Module):
    """Attention and a feed-forward layer, each on a modulated norm and behind a gate."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = _Attention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            *([nn.Dropout(dropout)] if dropout else []),
            nn.Linear(4 * width, width),
        )
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c).chunk(6, -1)
        x = x + gate_1 * self.attention(_modulated(x, shift_1, scale_1))
        return x + gate_2 * self.mlp(_modulated(x, shift_2, scale_2))


class _Attention(nn.Module):
    """Self-attention of all tokens to all tokens."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, T, d]
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) (1 + scale) + shift, the norm being over the width, without weights of its own."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
