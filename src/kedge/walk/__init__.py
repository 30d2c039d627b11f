"""From noise to data: one loop, and the solvers, grids and hooks that it takes."""

from kedge.walk.state import Hook, Solver, State, Step
from kedge.walk.walk import Walk, sample
from kedge.walk.whole import Captured, Compiled

__all__ = ["Captured", "Compiled", "Hook", "Solver", "State", "Step", "Walk", "sample"]
