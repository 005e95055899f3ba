"""Print the kernel state of the namespaces of nodes and pods as text, in the words of iproute2.

Run as: kernel_listing.py LAB

Each namespace is a section with one entry for each link, address, route, neighbour, forwarding
entry, policy rule, changed sysctl, nftables object, WireGuard peer, and XFRM state and policy.
Properties of links and sysctls are shown if they differ from those of a new link of the same kind
in a new namespace. Entries that the kernel adds by itself to the table `local` are left out, and so
are aliases of links.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from kubenetlab.kernel.syscalls import CLONE_NEWNET, unshare
from tests.labs.kernel_state import read_kernel_state, read_settings
from tests.labs.key_listing import key_entries, owners_of_keys

_KINDS: Final = ("node", "pod")
"""Kinds of namespaces that are listed: the rest of a lab does not depend on the CNI mode."""
_NEW_LINKS: Final = {
    "veth": "type veth",
    "bridge": "type bridge",
    "vxlan": "type vxlan id 1 local 192.0.2.1 dstport 1",
    "dummy": "type dummy",
    "ipip": "type ipip local 192.0.2.1",
    "wireguard": "type wireguard",
    "macvlan": "link new-veth type macvlan",
    "port": "type veth",
}
"""Kind of link → how a new one is created, for its properties."""
_OWN_PROPERTIES: Final = (
    *("ifname", "address", "permaddr", "broadcast", "link_type", "link", "peer", "master"),
    *("ifalias", "mtu", "operstate", "flags", "linkinfo", "bridge_id", "root_id", "no", "id"),
    *("designated_bridge", "designated_port", "designated_cost", "root_port", "root_path_cost"),
    *("state", "port_range", "local", "local6", "port", "group", "cost"),
    # These depend on processors and on other links; flags have what the link was set to.
    *("promiscuity", "allmulti", "num_rx_queues", "num_tx_queues", "tso_max_size", "tso_max_segs"),
)
"""Properties that are not compared with those of a new link: they are shown in words, or not."""
_USUAL_FLAGS: Final = {
    "BROADCAST",
    "MULTICAST",
    "LOOPBACK",
    "UP",
    "LOWER_UP",
    "NO-CARRIER",
    "M-DOWN",
}
_LINK_SETTING: Final = re.compile(r"/proc/sys/net/(ipv[46])/(conf|neigh)/([^/]+)/(.+)")
_MACHINE_SETTINGS: Final = re.compile(r"/mtu$|/unix/|/core/|nf_log|_mem$")
"""Settings that the kernel derives from the machine or from other properties."""
_RULES_OF_LINUX: Final = {(0, "local"), (32766, "main"), (32767, "default")}
_XTABLES: Final = re.compile(r"^table \S+ (nat|filter|mangle|raw|security) \{")


def kernel_listing(lab: str) -> str:
    """Return the listing of a lab that is up; it is read by a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.labs.kernel_listing", lab],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def sections(listing: str) -> dict[str, list[str]]:
    """Return the entries of each namespace; the lines of an entry after the first are indented."""
    entries: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if line.startswith("["):
            current = entries.setdefault(line.strip("[]"), [])
        elif line.startswith((" ", "\t")):
            current[-1] += f"\n{line}"
        elif line:
            current.append(line)
    return entries


def main(lab: str) -> None:
    states = read_kernel_state(lab, with_ruleset=True, with_keys=True)
    owners = owners_of_keys(states)
    unshare(CLONE_NEWNET)
    new = _NewNamespace(_read_new_links(), dict(read_settings()))
    for name, state in states.items():
        kind, _, place = name.partition("_")
        if kind in _KINDS:
            print(f"[{kind} {place.replace('_', '/', 1) if kind == 'pod' else place}]")
            for entry in (*_entries(state, new), *key_entries(state["keys"], owners)):
                print(entry)
            print()


class _NewNamespace(Struct, frozen=True):
    """Properties of new links of each kind in a new namespace, and its sysctls."""

    links: Mapping[str, Any]
    """Kind → properties; `port` for a port of a bridge."""
    settings: Mapping[str, str]

    def link(self, link: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the properties of a new link of the same kind."""
        info = link.get("linkinfo", {})
        if link["link_type"] == "loopback":
            return dict(self.links["lo"])
        kind = "port" if info.get("info_slave_kind") == "bridge" else info.get("info_kind")
        return dict(self.links.get(f"new-{kind}", {}))

    def has(self, link: Mapping[str, Any]) -> bool:
        """Return True for an unused link that every new namespace has.

        Loaded modules of tunnels bring them: sit0, ip6tnl0, tunl0.
        """
        return link["ifname"] in self.links and "UP" not in link["flags"]


def _entries(state: Mapping[str, Any], new: _NewNamespace) -> Iterator[str]:
    yield from (
        _link(link, new.link(link))
        for name, link in sorted(state["links"].items())
        if name != "lo" and not new.has(link)
    )
    for link, addresses in sorted(state["addresses"].items()):
        yield from (_address(link, address) for address in addresses if link != "lo")
    for routes in state["routes"]:
        yield from sorted(_route(route) for route in routes if _is_configured(route))
    yield from sorted(
        f"neighbor {entry['dst']} lladdr {entry['lladdr']} dev {entry['dev']}"
        for entry in state["neighbors"]
        if "lladdr" in entry
    )
    yield from sorted(
        f"fdb {entry['mac']} dst {entry['dst']} dev {entry['ifname']}"
        f" {entry.get('state') or 'dynamic'}"
        for entry in state["forwarding"]
        # Entries that the kernel learns are facts of the traffic.
        if entry.get("state")
    )
    for family, rules in zip(("", "-6 "), state["policy_rules"], strict=True):
        for rule in rules:
            if (rule["priority"], rule.get("table")) not in _RULES_OF_LINUX:
                yield f"{family}rule {rule['priority']}: {_words(rule, without=('priority',))}"
    yield from sorted(_changed_settings(state, new))
    for family, chains in state["iptables"].items():
        for chain, rules in chains.items():
            for rule in rules:
                yield f"{family} {chain}: {rule}"
    yield from _nftables(state["ruleset"])


def _link(link: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return a link in words: kind, ends, MTU, MAC, and properties that a new link has not."""
    info, new_info = link.get("linkinfo", {}), new.get("linkinfo", {})
    kind, data = info.get("info_kind", ""), info.get("info_data", {})
    words = [f"link {link['ifname']}", *([kind] if kind else [])]
    words += [f"{key} {link[key]}" for key in ("link", "master", "peer") if link.get(key)]
    if kind == "vxlan":
        words += [f"id {data['id']}", f"port {data['port']}"]
        words += [
            f"{word} {data[key]}"
            for key, word in (("group", "group"), ("local", "local"), ("local6", "local"))
            if key in data
        ]
        words += [f"dev {data['link']}"] if "link" in data else []
    words += [f"mtu {link['mtu']}"]
    words += [f"mac {link['address']}"] if "address" in link else []
    words += [flag.lower() for flag in link["flags"] if flag not in _USUAL_FLAGS]
    words += ["up" if "UP" in link["flags"] else "down"]
    words += _changed(link, new)
    for part in ("info_data", "info_slave_data"):
        words += _changed(info.get(part, {}), new_info.get(part, {}))
    return " ".join(words)


def _changed(properties: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} {json.dumps(value)}"
        for key, value in sorted(properties.items())
        if key not in _OWN_PROPERTIES and new.get(key) != value
    ]


def _address(link: str, address: Mapping[str, Any]) -> str:
    flags = [key for key, value in address.items() if value is True and key != "tentative"]
    words = [f"address {address['local']}/{address['prefixlen']}"]
    words += [f"peer {address['address']}"] if "address" in address else []
    words += [f"brd {address['broadcast']}"] if "broadcast" in address else []
    words += [f"dev {link}", f"scope {address['scope']}", *flags]
    words += [f"label {address['label']}"] if address.get("label", link) != link else []
    return " ".join(words)


def _is_configured(route: Mapping[str, Any]) -> bool:
    """Return False for the routes of addresses and links that the kernel adds to `local`."""
    return not (
        route["table"] == "local"
        and (route["protocol"] == "kernel" or route["dst"].startswith("ff00:"))
    )


def _route(route: Mapping[str, Any]) -> str:
    dst, table, protocol = route["dst"], route["table"], route["protocol"]
    words = ["route", *([route["type"]] if route["type"] != "unicast" else []), dst]
    for key, word in (("gateway", "via"), ("dev", "dev")):
        words += [f"{word} {route[key]}"] if key in route else []
    if "via" in route:
        words.append(f"via {route['via']['family']} {route['via']['host']}")
    words += [f"table {table}"] if table != "main" else []
    words += [f"proto {protocol}"]
    words += [f"scope {route['scope']}"] if route.get("scope", "global") != "global" else []
    for key, word in (("prefsrc", "src"), ("metric", "metric")):
        words += [f"{word} {route[key]}"] if key in route and route[key] != 1024 else []
    for metric in route.get("metrics", ()):
        words += [f"{key} {value}" for key, value in metric.items()]
    for hop in route.get("nexthops", ()):
        words.append(f"nexthop {_words(hop, without=('flags',))}")
    # The carrier of a link is reported up to a second later (net/core/link_watch.c).
    words += [flag for flag in route["flags"] if flag not in ("linkdown", "dead")]
    return " ".join(words)


def _words(entry: Mapping[str, Any], without: tuple[str, ...]) -> str:
    return " ".join(
        key if value is None else f"{key} {value}"
        for key, value in entry.items()
        if key not in without
    )


def _changed_settings(state: Mapping[str, Any], new: _NewNamespace) -> Iterator[str]:
    """Yield sysctls that differ from those of a new namespace.

    The sysctls of a link are left out if a new link of its kind has the same, or if the link has
    them from the namespace's default.
    """
    settings = state["settings"]
    for path, value in settings.items():
        if _MACHINE_SETTINGS.search(path):
            continue
        usual = new.settings.get(path)
        match = _LINK_SETTING.fullmatch(path)
        if match and (link := state["links"].get(match[3])):
            if new.has(link):
                continue
            default = f"/proc/sys/net/{match[1]}/{match[2]}/default/{match[4]}"
            usual = new.settings.get(path.replace(match[3], new.link(link).get("ifname", ""), 1))
            if usual == new.settings.get(default):
                usual = settings.get(default, usual)
        if value != usual:
            name = path.removeprefix("/proc/sys/").replace(".", "\0").replace("/", ".")
            yield f"sysctl {name} = {' '.join(value.split())}".replace("\0", "/")


def _nftables(ruleset: str) -> Iterator[str]:
    """Yield each table, chain, set and map; elements and objects are sorted."""
    table, comment = "", ""
    block: list[str] = []
    objects: list[str] = []
    for line in ruleset.splitlines():
        if line.startswith("table "):
            # Tables of iptables are listed in its words.
            table = "" if _XTABLES.match(line) else line.removesuffix(" {")
            comment, objects = "", []
        elif line.startswith("\tcomment "):
            comment = f" {line.strip()}"
        elif line == "\t}":
            objects.append(_block(table, block))
            block = []
        elif line.startswith("\t"):
            block.append(line.strip())
        elif line == "}" and table:
            yield table + comment
            yield from sorted(objects)


def _block(table: str, lines: list[str]) -> str:
    text = "\n".join(f"  {line}" for line in lines[1:])
    text = re.sub(
        r"elements = \{([^}]*)\}",
        lambda match: (
            "elements = {"
            + "".join(f"\n    {element}" for element in sorted(re.split(r",\s+", match[1].strip())))
            + " }"
        ),
        text,
    )
    return f"{table} {lines[0].removesuffix(' {')}" + (f"\n{text}" if text else "")


def _read_new_links() -> dict[str, Any]:
    """Return the properties of new links by name: `lo`, and `new-KIND` as far as Linux has it."""
    for kind, words in _NEW_LINKS.items():
        _ip(f"link add new-{kind} {words}")
    _ip("link set new-port master new-bridge")
    for kind in _NEW_LINKS:
        _ip(f"link set new-{kind} up")
    return {link["ifname"]: link for link in json.loads(_ip("-j -d link"))}


def _ip(words: str) -> str:
    return subprocess.run(
        ("ip", *words.split()), capture_output=True, text=True, check=False
    ).stdout


if __name__ == "__main__":
    main(sys.argv[1])
