"""Deadlines of tests: seconds on a real processor, times KUBENETLAB_PATIENCE.

The emulated machine sets it, because everything takes longer there.
"""

from __future__ import annotations

import os

PATIENCE = float(os.environ.get("KUBENETLAB_PATIENCE", "1"))


def patiently(seconds: float) -> float:
    """Return a deadline for this machine, in seconds."""
    return seconds * PATIENCE
