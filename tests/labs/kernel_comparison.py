"""Comparison of the kernel state of two labs, line by line.

Names, addresses, MACs and links of pods, and cluster IPs, depend on the history of a lab. Each is
replaced by a description, which is the same for all pods of one workload on one node.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kubenetlab.names import mac_of
from tests.labs.lab import ROOT, Lab
from tests.patience import patiently

_KEPT_BY_BRIDGES = ("tso_max_size",)
"""Attributes that depend on the former ports of a bridge."""
_PORT_NUMBERS = ("id", "no", "designated_port")
_UNORDERED = ("elem", "neighbors", "prefixes")
_HASH = re.compile(r"-[A-Z2-7]{8}-|(?<=KUBE-SEP-)[A-Z2-7]{16}")
"""Part of a name that depends on addresses."""
_VETH = re.compile(r"\bveth\d+")


SETTLED_S = 5.0
"""Time after which the kernel has updated the state and routes of a link, in seconds.

The kernel reports a change of the carrier up to a second later (net/core/link_watch.c).
"""


def kernel_differences(first: Lab, second: Lab) -> list[str]:
    """Return the lines that only the first lab (`-`) or only the second lab (`+`) has."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        first_lines, second_lines = Counter(lines(first)), Counter(lines(second))
        differences = sorted(
            [
                *(f"- {line}" for line in (first_lines - second_lines).elements()),
                *(f"+ {line}" for line in (second_lines - first_lines).elements()),
            ]
        )
        if not differences or time.monotonic() > deadline:
            return differences


def lines(lab: Lab) -> Iterator[str]:
    """Yield lines such as `node_worker links veth: {…}`."""
    completed = subprocess.run(
        [sys.executable, "-m", "tests.labs.kernel_state", lab.name],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=patiently(60),
    )
    descriptions = _descriptions(lab.inspected)
    pattern = re.compile(
        "|".join(
            rf"(?<![A-Za-z0-9.:]){re.escape(word)}(?![A-Za-z0-9]|\.\d)"
            for word in sorted(descriptions, key=len, reverse=True)
        )
    )
    text = pattern.sub(lambda match: descriptions[match[0]], completed.stdout)
    for netns, sections in json.loads(
        _VETH.sub("veth", _HASH.sub("-", text)), object_pairs_hook=_pairs
    ):
        for section, content in sections:
            for name, entry in (
                content if _is_object(content) else [("", entry) for entry in content]
            ):
                entries = entry if section == "rules" and _is_object(entry) else [("", entry)]
                yield from (
                    f"{netns} {section} {name} {part}: {json.dumps(value)}"
                    for part, value in entries
                )


def _is_object(value: Any) -> bool:
    return bool(value) and isinstance(value, list) and isinstance(value[0], tuple)


def _pairs(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return an object as its pairs in order: two of them may have the same name now."""
    ignored = (
        *_KEPT_BY_BRIDGES,
        *(_PORT_NUMBERS if any(key == "designated_port" for key, _ in pairs) else ()),
    )
    kept = [(key, value) for key, value in pairs if key not in ignored]
    return sorted(((key, _in_order(key, value)) for key, value in kept), key=json.dumps)


def _in_order(key: str, value: Any) -> Any:
    if key == "routes":
        return [sorted(family, key=json.dumps) for family in value]
    return sorted(value, key=json.dumps) if key in _UNORDERED and isinstance(value, list) else value


def _descriptions(inspected: Any) -> dict[str, str]:
    """Return the description of each name, address and MAC."""
    descriptions = {}
    for pod in inspected["pods"]:
        kind = f"{pod['namespace']}/{pod['workload'] or pod['name']} on {pod['node']}"
        descriptions[pod["name"]] = kind
        for address in pod["addresses"]:
            descriptions[address] = f"address of {kind}"
            mac = mac_of(address)
            descriptions[mac] = f"mac of {kind}"
            descriptions[mac.replace("0a:58:", "0a:59:", 1)] = f"far mac of {kind}"
    for service in inspected["services"]:
        for address in service["cluster_ips"]:
            descriptions[address] = f"address of {service['namespace']}/{service['name']}"
    return descriptions
