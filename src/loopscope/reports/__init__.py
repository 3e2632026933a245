"""From a measurement to figures, tables and one html page.

Films and the playground run a model besides.
"""

from loopscope.reports.html import report
from loopscope.reports.measurement import Measurement, read_measurements

__all__ = ["Measurement", "read_measurements", "report"]
