"""How data becomes noise. A file a path."""

from kedge.paths.cosine import Cosine
from kedge.paths.damped import Damped
from kedge.paths.flexible import Flexible, LearnedFlexible
from kedge.paths.from_point import FromPoint
from kedge.paths.gaussian import GaussianPath, Quantity, affine, combine, transition
from kedge.paths.linear import LinearPath
from kedge.paths.modes import CosineModes, EntryPace
from kedge.paths.phase_bridge import PhaseBridge
from kedge.paths.rectified import Rectified
from kedge.paths.tabled import Tabled
from kedge.paths.trig import Trig
from kedge.paths.variance_exploding import VarianceExploding
from kedge.paths.variance_preserving import VariancePreserving

__all__ = [
    "Cosine",
    "CosineModes",
    "Damped",
    "EntryPace",
    "Flexible",
    "FromPoint",
    "GaussianPath",
    "LearnedFlexible",
    "LinearPath",
    "PhaseBridge",
    "Quantity",
    "Rectified",
    "Tabled",
    "Trig",
    "VarianceExploding",
    "VariancePreserving",
    "affine",
    "combine",
    "transition",
]
