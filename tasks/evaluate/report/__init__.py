"""The evaluation report: one HTML file that opens from disk, with its style, plots and pictures inside it."""

from tasks.evaluate.report.make import make_report
from tasks.evaluate.report.page import write_report

__all__ = ["make_report", "write_report"]
