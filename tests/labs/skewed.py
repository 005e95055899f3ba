"""kubenetlab on a machine whose clock is set. Run as: skewed.py FILE COMMAND…

The file holds by how many seconds the clock was set, for all processes of a lab: they are forks of
the `up` that makes it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from kubenetlab.cli import main

if __name__ == "__main__":
    _clock, _file = time.time, Path(sys.argv.pop(1))
    time.time = lambda: _clock() + float(_file.read_text())
    main()
