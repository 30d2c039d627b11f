"""Constraints that plans satisfy: how they may move, where they may be."""

from kedge.constrain.constraints import Constraint, HalfSpace, Limits, Moves
from kedge.constrain.feasible import Feasible, chosen
from kedge.constrain.outside import Outside, OutsideBox, OutsideDisc
from kedge.constrain.rows import Rows, nearest

__all__ = [
    "Constraint", "Feasible", "HalfSpace", "Limits", "Moves", "Outside", "OutsideBox", "OutsideDisc", "Rows", "chosen",
    "nearest",
]  # fmt: skip
