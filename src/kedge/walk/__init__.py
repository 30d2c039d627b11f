"""From noise to data: one loop, and the solvers, grids and hooks that it takes."""

from kedge.walk.state import Hook, Solver, State, Step
from kedge.walk.walk import Walk, sample

__all__ = ["Hook", "Solver", "State", "Step", "Walk", "sample"]
