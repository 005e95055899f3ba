"""Wake: a controller's request to run again at a given time."""

from typing import NamedTuple


class Wake(NamedTuple):
    """Request of a controller to run again at a given time."""

    at: float
    """Time in seconds since 1970."""
