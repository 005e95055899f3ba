"""Answers of CHECK that are wrong in released plugins."""

from __future__ import annotations

from ipaddress import ip_interface

from kubenetlab.cni.failures import PluginError
from kubenetlab.cni.results import Result


def is_false_failure(plugin: str, error: PluginError, result: Result) -> bool:
    """Return True if a plugin reports a difference that cannot exist.

    `portmap` up to version 1.1, which is Debian 12's, requires its chains in both IP families, also
    for a pod with addresses of one family. Later versions check the families of the addresses.

    Source: containernetworking/plugins plugins/meta/portmap/portmap.go (checkPorts).
    """
    if plugin != "portmap":
        return False
    versions = {ip_interface(each.address).version for each in result.ips}
    return any(
        version not in versions and f"could not check ipv{version} dnat" in error.message
        for version in (4, 6)
    )
