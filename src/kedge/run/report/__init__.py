"""The report: one self-contained file that a person enjoys reading."""

from kedge.run.report.page import render, report
from kedge.run.report.sweeps import is_sweep, sweep_report

__all__ = ["is_sweep", "render", "report", "sweep_report"]
