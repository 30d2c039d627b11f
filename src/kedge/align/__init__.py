"""Moving a denoiser toward a reward: walks are recorded, replayed with densities, and weighed."""

from __future__ import annotations

from kedge.align.advantages import (
    Clamp,
    Extremes,
    Near,
    Novel,
    Ranks,
    Relative,
    SameDirection,
    Standard,
    Varied,
    advantages,
)
from kedge.align.log_weights import Baseline, Potential, centred, log_weights, mean_within
from kedge.align.policy import Entries, PolicyGradient
from kedge.align.rewards import Patient, Reward, RewardError, from_file
from kedge.align.vmpo import VMPO
from kedge.align.walks import Growing, Kept, OwnWalks, Recorded, recorded, replayed

__all__ = [
    "VMPO",
    "Baseline",
    "Clamp",
    "Entries",
    "Extremes",
    "Growing",
    "Kept",
    "Near",
    "Novel",
    "OwnWalks",
    "Patient",
    "PolicyGradient",
    "Potential",
    "Ranks",
    "Recorded",
    "Relative",
    "Reward",
    "RewardError",
    "SameDirection",
    "Standard",
    "Varied",
    "advantages",
    "centred",
    "from_file",
    "log_weights",
    "mean_within",
    "recorded",
    "replayed",
]
