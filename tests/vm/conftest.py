"""Fixture of the tests on the emulated machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Yield a lab that is not up yet; remove it after the test."""
    yield from new_lab()
