"""Records -> tables, plots, one HTML page, model cards."""

from __future__ import annotations

from bitfront.report.data import Curve, Preview, ReportData
from bitfront.report.page import write, write_comparison, write_stats

__all__ = ["Curve", "Preview", "ReportData", "write", "write_comparison", "write_stats"]
