"""The loss of a network of several widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kedge.denoise import Denoiser
from kedge.fit.loss import DenoisingLoss
from kedge.nets import Slimmable
from kedge.slots import WIDTH_SLOT
from kedge.train import Batch, OptimiserSpec, Part, Tick
from kedge.train.crew import ALONE


class Sandwich(nn.Module):
    """`L_1 + L_least + L_s`: the denoising loss of the whole width, of the least one, and of one between, which is
    drawn anew at every update; all at the same levels and noise.

    Yu and Huang, "Universally slimmable networks and improved training techniques", ICCV 2019; for denoisers Yang et
    al., "Denoising diffusion step-aware models", ICLR 2024, whose three losses have noise of their own.

    loss: of a `Denoiser` of a `kedge.nets.Slimmable`; its weighting learns from the whole width
    """

    def __init__(self, loss: DenoisingLoss) -> None:
        super().__init__()
        self.loss = loss
        slimmable(loss.denoiser)

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: this module, on this loss. Options are those of `kedge.train.Part`."""
        options.setdefault("compiles", ())
        options.setdefault("shared", True)
        return Part(self, self, optimiser, **options)

    def forward(self, batch: Batch, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The sum for each sample `[B]`; the errors of the whole width and of the least to log."""
        denoiser, net = slimmable(self.loss.denoiser)
        total, info = self.loss(batch, tick)
        for share in self.narrower(tick):
            own, said = self.loss.of(denoiser.with_net(net.at(share)), batch, tick)
            total = total + own
            if share == net.shares[0]:
                info = info | {"least": said["error"]}
        return total, info

    def narrower(self, tick: Tick) -> list[float]:
        """The widths that an update trains beside the whole one: the same ones wherever its batches are."""
        least, *between = slimmable(self.loss.denoiser)[1].shares[:-1]
        if not between:
            return [least]
        u = float(replace(tick, turn=0, crew=ALONE).noise(1).uniform((1, 1), tick.step, WIDTH_SLOT))
        return [least, between[min(int(u * len(between)), len(between) - 1)]]


def slimmable(denoiser: Any) -> tuple[Denoiser, Slimmable]:
    """A denoiser and its network; one line where it has no several widths."""
    net = getattr(denoiser, "net", None)
    if not isinstance(denoiser, Denoiser) or not isinstance(net, Slimmable) or len(net.shares) < 2:
        raise TypeError(f"a Denoiser of a kedge.nets.Slimmable of two widths or more, not {type(denoiser).__name__}")
    return denoiser, net
