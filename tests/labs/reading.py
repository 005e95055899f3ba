"""Reads what is in the namespaces of a lab, by `ip`, `nft`, `iptables` and /proc/sys alone, and
prints it as JSON. Run as: reading.py LAB

Namespaces are found by their names in /run/netns. What differs from one making to the next is left
out or put in order: numbers of links, handles, timers, counters, the order of chains and elements.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from kubenetlab.hoststate.rules.iptables import parse
from kubenetlab.kernel.syscalls import CLONE_NEWNET, setns

_OF_IPTABLES = ("nat", "filter", "mangle")
"""Tables of which nft shows but the names of matches: iptables' own program tells the whole."""
_PROBABILITY = re.compile(r" -m statistic --mode random --probability [\d.]+")

RUN_NETNS = Path("/run/netns")
_NUMBERS = ("ifindex", "link_index", "link_netnsid")
_CHANGES_BY_ITSELF = ("nf_conntrack_count", "tcp_fastopen_key", "stable_secret", "route/flush")


def reading(lab: str) -> dict[str, Any]:
    """Namespace without the lab's name → what is in it.

    One that has several names is read once, under the first.
    """
    files = {
        os.stat(path).st_ino: path for path in sorted(RUN_NETNS.glob(f"{lab}_*"), reverse=True)
    }
    names = {path.name: files[os.stat(path).st_ino].name for path in RUN_NETNS.glob(f"{lab}_*")}
    found = {}
    for path in files.values():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        setns(fd, CLONE_NEWNET)
        os.close(fd)
        found[path.name] = _here(names)
    for seen in found.values():
        for link in seen["links"].values():
            if "peer" in link:
                link["peer"] = _far_end(found, *link["peer"])
    for seen in found.values():
        del seen["numbers"]
    return {name.removeprefix(f"{lab}_"): seen for name, seen in sorted(found.items())}


def _here(names: dict[str, str]) -> dict[str, Any]:
    """What is in the namespace in which we stand."""
    links = _json("ip", "-j", "-d", "link")
    namespaces = {
        entry["nsid"]: names.get(entry.get("name", ""), "?")
        for entry in _json("ip", "-j", "netns", "list-id")
    }
    return {
        "numbers": {link["ifindex"]: link["ifname"] for link in links},
        "links": {link["ifname"]: _link(link, namespaces) for link in links},
        "addresses": {
            entry["ifname"]: _addresses(entry) for entry in _json("ip", "-j", "-d", "addr")
        },
        "routes": [
            _sorted(_json("ip", "-j", "-d", family, "route", "show", "table", "all"))
            for family in ("-4", "-6")
        ],
        "neighbors": _sorted(_json("ip", "-j", "-d", "neighbor", "show", "nud", "permanent")),
        "rules": _rules(_json("nft", "-j", "list", "ruleset")),
        "iptables": {
            family: _iptables(_said(f"{family}-nft-save"))
            for family in ("iptables", "ip6tables")
            if shutil.which(f"{family}-nft-save")
        },
        "settings": dict(_settings()),
    }


def _far_end(found: dict[str, Any], namespace: str, number: int) -> str:
    return (
        f"{found[namespace]['numbers'][number]} in {namespace.partition('_')[2]}"
        if namespace in found
        else "?"
    )


def _link(link: dict[str, Any], namespaces: dict[int, str]) -> dict[str, Any]:
    peer = (
        {"peer": [namespaces.get(link["link_netnsid"], "?"), link["link_index"]]}
        if "link_netnsid" in link
        else {}
    )
    return {
        **{key: _without_timers(value) for key, value in link.items() if key not in _NUMBERS},
        **peer,
    }


def _without_timers(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_timers(inner)
            for key, inner in value.items()
            if not key.endswith("_timer")
        }
    return value


def _addresses(entry: dict[str, Any]) -> Any:
    """Who made an address is shown by some versions of `ip`, and set by none of those that are
    common.
    """
    return _sorted(
        [
            {key: value for key, value in address.items() if key != "protocol"}
            for address in entry["addr_info"]
        ]
    )


def _rules(listing: dict[str, Any]) -> Any:
    """Rules in order, chain by chain; elements by name."""
    found: dict[str, Any] = {}
    for entry in listing["nftables"]:
        for kind, value in entry.items():
            if kind == "metainfo" or value.get("table", value.get("name")) in _OF_IPTABLES:
                continue
            place = found.setdefault(
                " ".join(
                    (
                        value["family"],
                        value.get("table", value["name" if kind == "table" else "table"]),
                    )
                ),
                {},
            )
            plain = {key: inner for key, inner in value.items() if key != "handle"}
            if "elem" in plain:
                plain["elem"] = _sorted(plain["elem"])
            if kind == "rule":
                place.setdefault(f"chain {value['chain']}", {}).setdefault("rules", []).append(
                    plain
                )
            else:
                place.setdefault(f"{kind} {value['name']}", {}).update(plain)
    return found


def _iptables(saved: str) -> Any:
    """Chain by chain; of those that draw, the rules in any order, for that follows from addresses."""
    found = {
        f"{table} {chain}": [_PROBABILITY.sub("", rule) for rule in rules]
        for (table, chain), rules in parse(saved).items()
    }
    return {
        place: sorted(rules) if " KUBE-SV" in place else rules for place, rules in found.items()
    }


def _settings() -> Any:
    for folder, _, files in os.walk("/proc/sys/net"):
        for path in (f"{folder}/{name}" for name in files):
            if not any(part in path for part in _CHANGES_BY_ITSELF):
                try:
                    with open(path) as file:
                        yield path, file.read()
                except OSError:
                    continue  # to be written only, or without a value


def _sorted(values: list[Any]) -> list[Any]:
    return sorted(values, key=json.dumps)


def _json(*command: str) -> Any:
    return json.loads(_said(*command) or "[]")


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(json.dumps(reading(sys.argv[1])))
