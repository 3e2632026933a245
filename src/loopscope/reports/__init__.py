"""From a measurement to figures, tables and one html page; never from a live model."""

from loopscope.reports.html import report
from loopscope.reports.measurement import Measurement, read_measurements

__all__ = ["Measurement", "read_measurements", "report"]
