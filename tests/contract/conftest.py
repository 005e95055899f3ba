"""Checks that hold for every command, mode and manifest found on disk."""

import tests.examples  # noqa: F401
