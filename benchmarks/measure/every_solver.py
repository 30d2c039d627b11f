"""Every solver that is exported, each by a line that makes it, and what it claims.

The tests hold each to its claims, and the benchmark tells what each costs. A new solver needs a line in `CASES`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

import kedge
from kedge.walk import Solver
from kedge.walk.solvers import Statistics


@dataclass(frozen=True)
class Case:
    """What a solver claims."""

    order: int | None = None
    """Of the flow between two interior levels; None for those that draw or choose their steps."""
    free: bool = True
    """Whether it walks the same on every path, in x / alpha and the noise scale."""
    even: bool = False
    """Whether its order is measured on even steps of the path's time, rather than of the log-SNR."""
    entries: bool = True
    """Whether entries may have levels of their own."""
    stairs: bool = True
    """Whether an entry that begins later walks as it would alone."""
    compiled: bool = True
    """Whether a walk is one graph."""


CASES: dict[str, dict[str, Case]] = {
    "AdamsBashforth": {
        "AdamsBashforth(1)": Case(1),
        "AdamsBashforth(2)": Case(2),
        'AdamsBashforth(3, start="own")': Case(3),
        'AdamsBashforth(4, start="own")': Case(4),
    },
    # its steps follow from what it sees
    "Adaptive": {
        "Adaptive(2, rtol=0.2, atol=0.1)": Case(entries=False, compiled=False),
        "Adaptive(3, rtol=0.2, atol=0.1)": Case(entries=False, compiled=False),
    },
    "DDIM": {"DDIM()": Case(1), "DDIM(0.5)": Case()},
    "DDPM": {"DDPM()": Case()},
    "DEIS": {
        "DEIS(1)": Case(1),
        "DEIS(2)": Case(2, free=False),
        'DEIS(3, start="own")': Case(3, free=False),
        'DEIS(2, "log_snr")': Case(2),
        'DEIS(3, "log_snr", "own")': Case(3),
    },
    "DPMSolver": {"DPMSolver(1)": Case(1), "DPMSolver(2)": Case(2), "DPMSolver(3)": Case(3)},
    "DPMSolverPP": {
        "DPMSolverPP(2)": Case(2),
        'DPMSolverPP(2, form="taylor")': Case(2),
        "DPMSolverPP(3)": Case(2, stairs=False),  # a slope alone is weighed by its integral, not as 2M does
        "DPMSolverPP(3, multistep=False)": Case(3),
        "DPMSolverPP(2, sde=True)": Case(),
    },
    "EVODiff": {"EVODiff(adapt=False)": Case(2, entries=False), "EVODiff()": Case(entries=False)},
    "Euler": {"Euler()": Case(1, free=False, even=True)},
    "FreeSDE": {"FreeSDE(0.0)": Case(1), "FreeSDE(2.0)": Case()},
    "Heun": {"Heun()": Case(2, free=False, even=True)},
    "RungeKutta": {'RungeKutta("rk4")': Case(4), 'RungeKutta("midpoint")': Case(2)},
    "SASolver": {"SASolver(2, 3, 0.0)": Case(3), "SASolver(tau=1.0)": Case()},
    "UniPC": {
        "UniPC(1)": Case(2),
        "UniPC(2)": Case(3),
        'UniPC(2, b="bh1")': Case(3),
        'UniPC(3, start="own")': Case(4),
        "UniPC(2, corrector=False)": Case(2),
        'UniPC(3, corrector=False, start="own")': Case(3),
    },
}
"""By the exported name, each line that makes one: what it claims."""

APART = {
    "Band": "SASolver(tau=Band())",
    "DPMSolverV3": "DPMSolverV3(table(32, 4))",
    "Decision": "Unified((Decision(3, corrector=1),))",
    "LinearMultistep": "LinearMultistep()",
    "Mixed": "Mixed(DDIM(), (0.1,) * 20)",
    "Statistics": 'Unified((Decision(2, predict="fitted"),), table(32, 4))',
    "Unified": "Unified()",
}
"""Those that are made of a model, of a search or for a process of their own, and what they are made of: each has its
test in `tests/systems`. By the exported name, a line that makes one for 20 steps over a state of `[B, 32, 4]`.
"""

ALL = {line: case for lines in CASES.values() for line, case in lines.items()}


def made(line: str) -> Solver:
    """What the line makes."""
    return eval(line, vars(kedge.walk.solvers) | {"table": table})


def table(*entries: int) -> Statistics:
    """Statistics that are those of no model, and cost what any do."""
    at = torch.linspace(-6, 6, 24, dtype=torch.float64)
    rows = (value.reshape(-1, *[1] * len(entries)).expand(-1, *entries) for value in (0.1 * at, -0.3 + 0 * at, 0 * at))
    return Statistics(at, *rows)
