"""kubenetlab on a machine whose clock has been set.

Run as: shifted_clock.py FILE COMMAND…

The file holds the offset of the clock in seconds, for all processes of a lab, because they are
forks of the `up` that creates it.
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
