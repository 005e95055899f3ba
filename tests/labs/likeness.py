"""Whether two labs are alike: what the kernel holds of each, line by line, in words in which pods
of one kind on one node are one.

Their names, addresses, MACs and links depend on what has been there before them, and so do the
cluster IPs of Services.
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
from tests.labs.faulty import ROOT
from tests.labs.lab import Lab
from tests.patience import patiently

_KEPT_BY_BRIDGES = ("tso_max_size",)
"""Follows from the ports that a bridge has had."""
_PORT_NUMBERS = ("id", "no", "designated_port")
_UNORDERED = ("elem", "neighbors", "prefixes")
_HASH = re.compile(r"-[A-Z2-7]{8}-|(?<=KUBE-SEP-)[A-Z2-7]{16}")
"""Of a name that depends on addresses."""
_VETH = re.compile(r"\bveth\d+")


SETTLED_S = 5.0
"""A link whose carrier has come or gone is told so by the kernel up to a second later
(net/core/link_watch.c), with its state and routes.
"""


def difference(one: Lab, other: Lab) -> list[str]:
    """What only one of them has, and keeps: `-` the first, `+` the second."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        first, second = Counter(lines(one)), Counter(lines(other))
        found = sorted(
            [
                *(f"- {line}" for line in (first - second).elements()),
                *(f"+ {line}" for line in (second - first).elements()),
            ]
        )
        if not found or time.monotonic() > deadline:
            return found


def lines(lab: Lab) -> Iterator[str]:
    """`node_worker links veth: {…}` and its kin."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.labs.reading", lab.name],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=patiently(60),
    )
    words = _words(lab.seen)
    known = re.compile(
        "|".join(
            rf"(?<![A-Za-z0-9.:]){re.escape(word)}(?![A-Za-z0-9]|\.\d)"
            for word in sorted(words, key=len, reverse=True)
        )
    )
    text = known.sub(lambda found: words[found[0]], done.stdout)
    for netns, sections in json.loads(
        _VETH.sub("veth", _HASH.sub("-", text)), object_pairs_hook=_pairs
    ):
        for section, content in sections:
            for name, entry in (
                content if _is_object(content) else [("", entry) for entry in content]
            ):
                parts = entry if section == "rules" and _is_object(entry) else [("", entry)]
                yield from (
                    f"{netns} {section} {name} {part}: {json.dumps(value)}" for part, value in parts
                )


def _is_object(value: Any) -> bool:
    return bool(value) and isinstance(value, list) and isinstance(value[0], tuple)


def _pairs(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """An object as its pairs in order: two of them may have the same name now."""
    left_out = (
        *_KEPT_BY_BRIDGES,
        *(_PORT_NUMBERS if any(key == "designated_port" for key, _ in pairs) else ()),
    )
    kept = [(key, value) for key, value in pairs if key not in left_out]
    return sorted(((key, _in_order(key, value)) for key, value in kept), key=json.dumps)


def _in_order(key: str, value: Any) -> Any:
    if key == "routes":
        return [sorted(family, key=json.dumps) for family in value]
    return sorted(value, key=json.dumps) if key in _UNORDERED and isinstance(value, list) else value


def _words(seen: Any) -> dict[str, str]:
    """What each name, address and MAC is called here."""
    found = {}
    for pod in seen["pods"]:
        kind = f"{pod['namespace']}/{pod['workload'] or pod['name']} on {pod['node']}"
        found[pod["name"]] = kind
        for address in pod["addresses"]:
            found[address] = f"address of {kind}"
            mac = mac_of(address)
            found[mac] = f"mac of {kind}"
            found[mac.replace("0a:58:", "0a:59:", 1)] = f"far mac of {kind}"
    for service in seen["services"]:
        for address in service["cluster_ips"]:
            found[address] = f"address of {service['namespace']}/{service['name']}"
    return found
