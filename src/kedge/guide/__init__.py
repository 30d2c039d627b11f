"""Denoisers that wrap denoisers: what a model is pulled toward, without training it again. A file a rule."""

from kedge.guide.calibrated import Calibrated
from kedge.guide.classifier_free import ClassifierFree, ToldWeight
from kedge.guide.clear import Clear
from kedge.guide.composed import Composed
from kedge.guide.gradient import Gradient
from kedge.guide.guide import Guide
from kedge.guide.keep_out import KeepOut, keep_out
from kedge.guide.policy import TowardPolicy
from kedge.guide.relay import Relay
from kedge.guide.toward import Toward
from kedge.guide.widths import ByWidth, Widths

__all__ = [
    "ByWidth",
    "Calibrated",
    "ClassifierFree",
    "Clear",
    "Composed",
    "Gradient",
    "Guide",
    "KeepOut",
    "Relay",
    "ToldWeight",
    "Toward",
    "TowardPolicy",
    "Widths",
    "keep_out",
]
