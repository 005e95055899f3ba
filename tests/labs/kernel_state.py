"""Print the state of a lab's namespaces as JSON, read with `ip`, `nft`, `iptables` and /proc/sys.

Run as: kernel_state.py LAB

The namespaces are found by their names in /run/netns. Properties that differ between two equal labs
are left out or sorted: link numbers, handles, timers, counters, the order of chains and elements.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubenetlab.hoststate.rules.iptables_save import parse
from kubenetlab.kernel.syscalls import CLONE_NEWNET, setns

_OF_IPTABLES = ("nat", "filter", "mangle")
"""Tables whose matches nft shows only by name; the programs of iptables show them whole."""
_PROBABILITY = re.compile(r" -m statistic --mode random --probability [\d.]+")

RUN_NETNS = Path("/run/netns")
_NUMBERS = ("ifindex", "link_index", "link_netnsid")
_CHANGES_BY_ITSELF = ("nf_conntrack_count", "tcp_fastopen_key", "stable_secret", "route/flush")


def read_kernel_state(
    lab: str, with_ruleset: bool = False, with_keys: bool = False
) -> dict[str, Any]:
    """Return the state of each namespace, by its name without the lab's name.

    A namespace with several names is read once, under the first.

    with_ruleset: add the text of `nft list ruleset`, in which the order of elements differs between
        equal labs.
    with_keys: add keys and peers, which differ between equal labs.
    """
    files = {
        os.stat(path).st_ino: path for path in sorted(RUN_NETNS.glob(f"{lab}_*"), reverse=True)
    }
    names = {path.name: files[os.stat(path).st_ino].name for path in RUN_NETNS.glob(f"{lab}_*")}
    states = {}
    for path in files.values():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        setns(fd, CLONE_NEWNET)
        os.close(fd)
        states[path.name] = _current_namespace(names)
        if with_ruleset:
            states[path.name]["ruleset"] = _output("nft", "-s", "list", "ruleset")
        if with_keys:
            from tests.labs.key_listing import read_keys  # not for a script outside the package

            states[path.name]["keys"] = read_keys()
    for state in states.values():
        for link in state["links"].values():
            if "peer" in link:
                link["peer"] = _peer(states, *link["peer"])
    for state in states.values():
        del state["numbers"]
    return {name.removeprefix(f"{lab}_"): state for name, state in sorted(states.items())}


def _current_namespace(names: dict[str, str]) -> dict[str, Any]:
    """Return the state of the current namespace."""
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
        "forwarding": _sorted(
            [entry for entry in _json("bridge", "-j", "fdb", "show") if "dst" in entry]
        ),
        "policy_rules": [_json("ip", "-j", family, "rule") for family in ("-4", "-6")],
        "rules": _rules(_json("nft", "-j", "list", "ruleset")),
        "iptables": {
            family: _iptables(_output(f"{family}-nft-save"))
            for family in ("iptables", "ip6tables")
            if shutil.which(f"{family}-nft-save")
        },
        "settings": dict(read_settings()),
    }


def _peer(states: dict[str, Any], namespace: str, number: int) -> str:
    return (
        f"{states[namespace]['numbers'][number]} in {namespace.partition('_')[2]}"
        if namespace in states
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
    """Return the addresses of a link without their origin (`protocol`).

    Some versions of `ip` show it, and none of the common ones sets it.
    """
    return _sorted(
        [
            {key: value for key, value in address.items() if key != "protocol"}
            for address in entry["addr_info"]
        ]
    )


def _rules(listing: dict[str, Any]) -> Any:
    """Return rules in order, chain by chain; elements by name."""
    tables: dict[str, Any] = {}
    for entry in listing["nftables"]:
        for kind, value in entry.items():
            if kind == "metainfo" or value.get("table", value.get("name")) in _OF_IPTABLES:
                continue
            table = tables.setdefault(
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
                table.setdefault(f"chain {value['chain']}", {}).setdefault("rules", []).append(
                    plain
                )
            else:
                table.setdefault(f"{kind} {value['name']}", {}).update(plain)
    return tables


def _iptables(saved: str) -> Any:
    """Return the rules chain by chain; sort those of chains that choose at random.

    Their order follows from addresses.
    """
    chains = {
        f"{table} {chain}": [_PROBABILITY.sub("", rule) for rule in rules]
        for (table, chain), rules in parse(saved).items()
    }
    return {
        chain: sorted(rules) if " KUBE-SV" in chain else rules for chain, rules in chains.items()
    }


def read_settings() -> Iterator[tuple[str, str]]:
    """Yield the path and the value of each sysctl of the network in the current namespace."""
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
    return json.loads(_output(*command) or "[]")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(json.dumps(read_kernel_state(sys.argv[1])))
