"""Wake: a controller's wish to be run again at a time."""

from typing import NamedTuple


class Wake(NamedTuple):
    """The wish to be run again at a time."""

    at: float
    """Seconds since 1970."""
