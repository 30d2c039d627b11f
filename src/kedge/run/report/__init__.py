"""The report: one self-contained file that a person enjoys reading."""

from kedge.run.report.page import render, report

__all__ = ["render", "report"]
