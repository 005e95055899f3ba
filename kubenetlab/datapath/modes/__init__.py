"""Modes: one file each, found by name.

The kube-proxy mode `ebpf` is `datapath/proxy/ebpf.py`. Each file holds one frozen `Mode`: its
fields are the options, its docstring is the manual page, and `needs` is what `doctor` checks.
"""

from __future__ import annotations

from kubenetlab.datapath.modes.contracts import CNI, PolicyEngine, ServiceProxy
from kubenetlab.datapath.modes.families import (
    FAMILIES,
    ModeFamily,
    file_options,
    known,
    load,
    policy_engine,
    policy_engines,
    proxy_mode,
    try_load,
)
from kubenetlab.datapath.modes.options import (
    LabSize,
    ModeOptions,
    Needs,
    Neighbors,
    OverlayLink,
    PodNetwork,
)

__all__ = [
    "CNI",
    "FAMILIES",
    "LabSize",
    "ModeFamily",
    "ModeOptions",
    "Needs",
    "Neighbors",
    "OverlayLink",
    "PodNetwork",
    "PolicyEngine",
    "ServiceProxy",
    "file_options",
    "known",
    "load",
    "policy_engine",
    "policy_engines",
    "proxy_mode",
    "try_load",
]
