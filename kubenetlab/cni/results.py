"""Results of plugins: decode, convert between versions of the specification.

There are three shapes: `ip4` and `ip6` (0.1.0, 0.2.0); interfaces, and addresses with their
`version` (0.3.0 to 0.4.0); the same without `version` (1.0.0, 1.1.0).
Source: containernetworking/cni pkg/types/{020,040,100}/types.go, pkg/invoke/exec.go.
"""

from __future__ import annotations

import json
from ipaddress import ip_interface, ip_network
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.cni.failures import MAX_SHOWN, PluginError

_OLDEST: Final = ("0.1.0", "0.2.0")
_WITH_IP_VERSION: Final = ("0.3.0", "0.3.1", "0.4.0")
_CURRENT: Final = ("1.0.0", "1.1.0")
RESULT_VERSIONS: Final = (*_OLDEST, *_WITH_IP_VERSION, *_CURRENT)

_INTERFACE_FIELDS_BEFORE_1: Final = ("name", "mac", "sandbox")


class Interface(Struct, frozen=True, rename={"pci_id": "pciID", "socket_path": "socketPath"}):
    """Interface that a plugin has made, or moved."""

    name: str
    mac: str = ""
    sandbox: str = ""
    """Path of the network namespace; empty for the node's own."""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


class IpConfig(Struct, frozen=True):
    """Address that a plugin has assigned."""

    address: str
    """Address with prefix length."""
    gateway: str = ""
    interface: int | None = None
    """Index into `interfaces`; None if the address is of no interface yet."""


class Route(Struct, frozen=True):
    """Route that a plugin has added, or that an IPAM plugin asks for."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | UnsetType = UNSET
    scope: int | UnsetType = UNSET


class Dns(Struct, frozen=True, omit_defaults=True):
    """DNS settings for the pod."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(Struct, frozen=True, rename={"cni_version": "cniVersion"}):
    """Result of ADD in the shape of the current version."""

    cni_version: str
    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IpConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()

    def addresses_of(self, netns: str, ifname: str) -> tuple[str, ...]:
        """Return the pod's addresses without prefix length, the first IPv4 and IPv6 one each.

        An address counts for the interface to which it belongs; one without an interface is the
        pod's, too. Source: containerd/go-cni result.go.
        """
        chosen: dict[int, str] = {}
        for ip in self.ips:
            if ip.interface is not None and not self._is_in_pod(ip.interface, netns, ifname):
                continue
            address = ip_interface(ip.address).ip
            chosen.setdefault(address.version, str(address))
        return tuple(chosen.values())

    def _is_in_pod(self, index: int, netns: str, ifname: str) -> bool:
        """Return True for an interface with the given name in the pod's namespace."""
        if not 0 <= index < len(self.interfaces):
            return False
        interface = self.interfaces[index]
        return interface.name == ifname and interface.sandbox in ("", netns)

    def host_interfaces(self) -> tuple[str, ...]:
        """Return the names of the interfaces in the node's namespace, in the plugins' order."""
        return tuple(interface.name for interface in self.interfaces if not interface.sandbox)


def decode(output: bytes, config_version: str) -> Result:
    """Return the result that a plugin wrote.

    config_version: version of the call, which is the result's unless it names one.
    Raises PluginError if the output is not a result.
    """
    try:
        document = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise _unusable(output, str(error)) from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise _unusable(output, "expected an object")
    try:
        return from_document(document, config_version)
    except (ValueError, msgspec.ValidationError) as error:
        raise _unusable(output, str(error)) from None


def from_document(document: JsonMapping, config_version: str) -> Result:
    """Return a result from its JSON document.

    Raises ValueError for an unknown version, fields of other types and invalid addresses.
    """
    version = document.get("cniVersion") or config_version
    if version not in RESULT_VERSIONS:
        raise ValueError(f'unsupported CNI result version "{version}"')
    if version in _OLDEST:
        document = _from_oldest(document)
    without_nulls = {key: value for key, value in document.items() if value is not None}
    result = msgspec.convert({**without_nulls, "cniVersion": version}, Result)
    for ip in result.ips:
        ip_interface(ip.address)
        if "/" not in ip.address:
            raise ValueError(f"invalid CIDR address: {ip.address}")
    for route in result.routes:
        ip_network(route.dst, strict=False)
    return result


def to_document(result: Result, version: str) -> JsonObject:
    """Return a result as a JSON document of a version: the input of the next plugin.

    Raises ValueError if that version cannot express it.
    """
    if version in _OLDEST:
        return _to_oldest(result, version)
    document: JsonObject = {"cniVersion": version}
    if result.interfaces:
        document["interfaces"] = [_filled(interface) for interface in result.interfaces]
    if result.ips:
        document["ips"] = [
            {key: item for key, item in msgspec.to_builtins(ip).items() if item not in ("", None)}
            for ip in result.ips
        ]
    if result.routes:
        document["routes"] = [_filled(route) for route in result.routes]
    if result.dns != Dns():
        document["dns"] = _dns_document(result.dns)
    if version in _WITH_IP_VERSION:
        for interface in document.get("interfaces", ()):
            for field in interface.keys() - set(_INTERFACE_FIELDS_BEFORE_1):
                del interface[field]
        for ip in document.get("ips", ()):
            ip["version"] = _ip_version(ip["address"])
    return document


def _filled(value: Interface | Route) -> JsonObject:
    """Return a value as a document without empty fields; a name or destination is kept."""
    document: JsonObject = msgspec.to_builtins(value)
    required = ("name", "dst")
    optional = {"table": True, "scope": True}  # 0 means something: it differs from absent
    return {
        key: item
        for key, item in document.items()
        if key in required or key in optional or item not in ("", 0)
    }


def _dns_document(dns: Dns) -> JsonObject:
    document: JsonObject = msgspec.to_builtins(dns)
    return {key: list(item) if isinstance(item, tuple) else item for key, item in document.items()}


def _ip_version(address: str) -> str:
    return "6" if ":" in address else "4"


def _from_oldest(document: JsonMapping) -> JsonObject:
    """Return the fields of a result with `ip4` and `ip6` in the current shape."""
    ips: list[JsonObject] = []
    routes: list[JsonObject] = []
    for field in ("ip4", "ip6"):
        config = document.get(field)
        if config is None:
            continue
        if not isinstance(config, dict) or "ip" not in config:
            raise ValueError(f"{field} has no ip")
        ips.append({"address": config["ip"], "gateway": config.get("gateway", "")})
        routes += config.get("routes") or ()
    return {"ips": ips, "routes": routes, "dns": document.get("dns")}


def _to_oldest(result: Result, version: str) -> JsonObject:
    """Return a result with `ip4` and `ip6`: the first address of each family, with its routes."""
    document: JsonObject = {"cniVersion": version}
    for ip in result.ips:
        field = f"ip{_ip_version(ip.address)}"
        if field not in document:
            document[field] = {"ip": ip.address}
            if ip.gateway:
                document[field]["gateway"] = ip.gateway
    if len(document) == 1:
        raise ValueError("cannot convert: no valid IP addresses")
    for route in result.routes:
        config = document.get(f"ip{_ip_version(route.dst)}")
        if config is not None:
            entry = {"dst": route.dst} | ({"gw": route.gw} if route.gw else {})
            config.setdefault("routes", []).append(entry)
    if result.dns != Dns():
        document["dns"] = _dns_document(result.dns)
    return document


def _unusable(output: bytes, cause: str) -> PluginError:
    """Return the error of a plugin that succeeded without a usable result."""
    text = output[: MAX_SHOWN + 1].decode(errors="replace").strip()
    if not text:
        return PluginError("netplugin wrote no result")
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    quoted = json.dumps(shown, ensure_ascii=False)
    return PluginError(f"failed to unmarshal the plugin's result {quoted}: {cause}")
