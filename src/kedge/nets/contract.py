"""What every network promises, and the one line that a caller gets who breaks it.

`net(x, t, cond=None) -> Tensor` of x's shape.

- `x`: `[B, ...]`, the axis after the batch being the tokens where there are any (`[B, T, D]`).
- `t`: `c_noise = 1/4 ln(noise scale)`, floating and finite, in about [-2, 1.6]: `[B]`, one level a sample, or `[B, T]`,
  one level a token. Where a sample's tokens share one level, both forms give the same output.
- `cond`: `kedge.cond.Cond` with exactly the fields that the network was built with, each `[B, d]`; or None: all null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from kedge.cond import Cond


def check_input(net: str, x: Tensor, t: Tensor, event: Sequence[int | None]) -> None:
    """Refuses an `x` that is not `[B, *event]` (None: any length), and a `t` that is neither `[B]` nor `[B, T]`."""
    good = x.ndim == len(event) + 1 and all(n is None or n == size for n, size in zip(event, x.shape[1:], strict=True))
    if not good:
        wanted = ", ".join("B" if i == 0 else str(n or "T") for i, n in enumerate((0, *event)))
        raise ValueError(f"{net}: x must have shape [{wanted}], got {list(x.shape)}")
    if not (t.shape == x.shape[:1] or (x.ndim > 2 and t.shape == x.shape[:2])):
        wanted = f"[{x.shape[0]}]" + (f" or [{x.shape[0]}, {x.shape[1]}]" if x.ndim > 2 else "")
        raise ValueError(f"{net}: t must have shape {wanted} for x of shape {list(x.shape)}, got {list(t.shape)}")
    if not t.is_floating_point():
        raise TypeError(f"{net}: t must be floating, got {t.dtype}; it is c_noise = 1/4 ln(noise scale), no step index")


def check_cond(net: str, widths: Mapping[str, int], cond: object, batch: int) -> None:
    """Refuses a condition whose fields are not `[batch, width]` each, by the names in `widths`."""
    if not isinstance(cond, Cond):
        raise TypeError(f"{net}: cond must be a kedge.Cond, such as Cond.of(goal=...), not {type(cond).__name__}")
    if not widths:
        raise ValueError(f"{net}: built without condition fields, but cond has {_listed(cond.fields)}")
    if cond.fields.keys() != widths.keys():
        raise ValueError(
            f"{net}: built with condition fields {_listed(widths)}, but cond has {_listed(cond.fields)}; "
            "a field without a value is passed as null by Cond.without"
        )
    for name, value in cond.fields.items():
        if value.shape != (batch, widths[name]):
            expected = [batch, widths[name]]
            raise ValueError(f"{net}: condition field {name!r} must have shape {expected}, got {list(value.shape)}")


def check_sizes(net: str, **sizes: int) -> None:
    """Refuses a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{net}: {name} must be at least 1, got {size}")


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in names)
