"""Runnable systems: a frozen dataclass a recipe, whose fields are all that can be chosen."""

from __future__ import annotations

from kedge.recipes.awm import AWM
from kedge.recipes.cdiffuser import CDiffuser
from kedge.recipes.closd import CLoSD
from kedge.recipes.ddpo import DDPO
from kedge.recipes.decision_diffuser import DecisionDiffuser
from kedge.recipes.diffuser import Diffuser
from kedge.recipes.diffusion_drive import DiffusionDrive
from kedge.recipes.diffusion_policy import DiffusionPolicy
from kedge.recipes.ditree import DiTree
from kedge.recipes.dv import DV
from kedge.recipes.dwm import DWM
from kedge.recipes.fv import FV
from kedge.recipes.hierarchical import Hierarchical
from kedge.recipes.iql import IQL
from kedge.recipes.loading import load
from kedge.recipes.mtdiff import MTDiff, MTDiffS
from kedge.recipes.navdp import NavDP
from kedge.recipes.policy_guided_diffusion import PolicyGuidedDiffusion
from kedge.recipes.td3_bc import TD3BC
from kedge.recipes.vmpo import VMPO

__all__ = [
    "AWM", "DDPO", "DV", "DWM", "FV", "IQL", "TD3BC", "VMPO", "CDiffuser", "CLoSD", "DecisionDiffuser", "DiTree",
    "Diffuser", "DiffusionDrive", "DiffusionPolicy", "Hierarchical", "MTDiff", "MTDiffS", "NavDP",
    "PolicyGuidedDiffusion", "load",
]  # fmt: skip
