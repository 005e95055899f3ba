"""Process groups, which tests start and interrupt as a terminal does."""

from __future__ import annotations

import os


def has_members(group: int) -> bool:
    """Return True if a process group has processes, also those that have not been reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
