"""cilium backend: the programs of the CNI mode cilium; see bpf.py."""

from __future__ import annotations

from kubenetlab.hoststate.rules.cilium import PROGRAMS
from kubenetlab.kernel.rules.bpf import BpfLoader


def open_loader() -> BpfLoader:
    """Open the loader in the current network namespace.

    Raises RequirementError if libbpf is missing.
    """
    return BpfLoader(PROGRAMS)
