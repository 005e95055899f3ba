"""Skipping of the tests that load BPF programs, on machines that cannot."""

from __future__ import annotations

from typing import Final

import pytest

from kubenetlab.kernel.processes.permissions import is_root
from kubenetlab.kernel.rules.libbpf import LIBRARY, has_library

_MISSING: Final = f"{LIBRARY} is missing (apt-get install libbpf1)"

NEEDS_LIBBPF: Final = pytest.mark.skipif(not has_library(), reason=_MISSING)
"""Mark of tests with labs that load BPF programs."""


def require_libbpf() -> None:
    """Skip a test that loads BPF programs itself, without libbpf and without root."""
    if not has_library():
        pytest.skip(_MISSING)
    if not is_root():
        pytest.skip("the kernel loads BPF programs only for root of the machine")
