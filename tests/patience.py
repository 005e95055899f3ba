"""How long tests wait: as long as a real processor needs, times KUBENETLAB_PATIENCE, which an
emulated one sets.
"""

from __future__ import annotations

import os

PATIENCE = float(os.environ.get("KUBENETLAB_PATIENCE", "1"))


def patiently(seconds: float) -> float:
    """A deadline that holds here."""
    return seconds * PATIENCE
