"""Draw the picture of the README from the result of `make demo`.

python scripts/readme_picture.py demo/demo.zarr docs/images/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from loopscope.reports import read_measurements
from loopscope.reports.drawing import save_png
from loopscope.reports.orbit_figures import drift_against_exponent

if __name__ == "__main__":
    source, picture = sys.argv[1:]
    (run,) = read_measurements(source)
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    save_png(drift_against_exponent(run).figure, Path(picture))
