"""Where a walk stops. A file a grid: n network evaluations, n + 1 levels, noisiest first, the last one clean."""

from kedge.walk.grids.again import Again, Below
from kedge.walk.grids.churned import Churned
from kedge.walk.grids.cosine import Cosine
from kedge.walk.grids.fitted import Fitted
from kedge.walk.grids.jumps import Handover, Jumps
from kedge.walk.grids.levels import Grid, Levels
from kedge.walk.grids.log_snr import LogSNR
from kedge.walk.grids.noised import Noised
from kedge.walk.grids.paced import Paced
from kedge.walk.grids.quadratic import Quadratic
from kedge.walk.grids.restart import Restart
from kedge.walk.grids.rho import Rho
from kedge.walk.grids.tangent import Tangent
from kedge.walk.grids.uniform import Uniform

__all__ = [
    "Again",
    "Below",
    "Churned",
    "Cosine",
    "Fitted",
    "Grid",
    "Handover",
    "Jumps",
    "Levels",
    "LogSNR",
    "Noised",
    "Paced",
    "Quadratic",
    "Restart",
    "Rho",
    "Tangent",
    "Uniform",
]
