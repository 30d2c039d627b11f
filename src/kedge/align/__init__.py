"""Moving a denoiser toward a reward: walks are recorded, replayed with densities, and weighed."""

from __future__ import annotations

from kedge.align.log_weights import Baseline, Potential, centred, log_weights, mean_within
from kedge.align.vmpo import VMPO
from kedge.align.walks import OwnWalks, Recorded, Reward, recorded, replayed

__all__ = [
    "VMPO",
    "Baseline",
    "OwnWalks",
    "Potential",
    "Recorded",
    "Reward",
    "centred",
    "log_weights",
    "mean_within",
    "recorded",
    "replayed",
]
