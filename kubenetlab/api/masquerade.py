"""Configuration of ip-masq-agent: the ConfigMap `kube-system/ip-masq-agent`, key `config`, in YAML or JSON.

Source: kubernetes-sigs/ip-masq-agent README.md and cmd/ip-masq-agent/ip-masq-agent.go (MasqConfig, validate).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_interface
from typing import Final

from kubenetlab.api.decode import Decoded, Finding, decode, format_path, found
from kubenetlab.api.documents import Path, read_documents
from kubenetlab.api.durations import duration_s
from kubenetlab.api.environment import ConfigMap
from kubenetlab.api.ip import version_of
from kubenetlab.api.meta import Record

CONFIG_MAP: Final = ("kube-system", "ip-masq-agent")
"""Namespace and name."""
KEY: Final = "config"


class MasqueradeConfig(Record, frozen=True):
    """Destinations towards which a node keeps the source address. A field that is missing has upstream's default."""

    non_masquerade_cidrs: tuple[str, ...] = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    """Destination ranges that are not masqueraded, IPv4 and IPv6."""
    cidr_limit: int = 64
    """Maximum number of ranges."""
    masq_link_local: bool = False
    """True: traffic to 169.254.0.0/16 is masqueraded too."""
    masq_link_local_ipv6: bool = False
    """True: traffic to fe80::/10 is masqueraded too."""
    resync_interval: str = "60s"
    """Period in which upstream's agent reads its file again. The lab applies every change at once."""


def masquerade_config(config_map: ConfigMap) -> MasqueradeConfig | None:
    """Return the configuration in a ConfigMap; upstream's default without the key, None when the text is wrong."""
    return _decoded(config_map).value


def masquerade_findings(config_map: ConfigMap) -> Iterator[Finding]:
    """Yield the faults of a configuration; fields that the agent does not have count as unknown fields."""
    here: Path = ("data", KEY)
    decoded = _decoded(config_map)
    for finding in decoded.findings:
        place = f"{format_path(finding.path)}: " if finding.path else ""
        yield Finding(here, f"{place}{finding.message}", finding.is_unknown_field, finding.hints)
    if (config := decoded.value) is None:
        return
    if len(config.non_masquerade_cidrs) > config.cidr_limit:
        message = f"expected at most {config.cidr_limit} ranges (cidrLimit), found {len(config.non_masquerade_cidrs)}"
        yield Finding(here, f"nonMasqueradeCIDRs: {message}")
    for index, cidr in enumerate(config.non_masquerade_cidrs):
        if fault := _range_fault(cidr):
            yield Finding(here, f"nonMasqueradeCIDRs[{index}]: {fault}")
    if not config.resync_interval or duration_s(config.resync_interval) is None:
        yield Finding(
            here,
            f"resyncInterval: expected a duration such as 60s, found {found(config.resync_interval)}",
        )


def foreign_ranges(config_map: ConfigMap, versions: Sequence[int]) -> Iterator[Finding]:
    """Yield a fault for each range of IPv6 in a cluster without it: upstream's agent refuses those without --enable-ipv6."""
    config = (
        masquerade_config(config_map)
        if config_map.key == CONFIG_MAP and 6 not in versions
        else None
    )
    for index, cidr in enumerate(config.non_masquerade_cidrs if config is not None else ()):
        if version_of(cidr) == 6:
            yield Finding(
                ("data", KEY),
                f"nonMasqueradeCIDRs[{index}]: this cluster has no IPv6, found {cidr}",
            )


def _decoded(config_map: ConfigMap) -> Decoded[MasqueradeConfig]:
    documents, problems = read_documents(KEY, config_map.data.get(KEY, "").encode())
    if problems:
        return Decoded(
            None,
            tuple(
                Finding((), f"line {one.line}: {one.message}", hints=one.hints) for one in problems
            ),
        )
    if not documents:
        return Decoded(MasqueradeConfig())
    if len(documents) > 1 or not isinstance(documents[0].value, dict):
        return Decoded(
            None, (Finding((), "expected one mapping such as {nonMasqueradeCIDRs: [10.0.0.0/8]}"),)
        )
    return decode(documents[0].value, MasqueradeConfig)


def _range_fault(cidr: str) -> str:
    """Return why a range is refused; nothing when it is not."""
    try:
        given = ip_interface(cidr)
    except ValueError:
        given = None
    if given is None or "/" not in cidr or not cidr.partition("/")[2].isdigit():
        return f"expected a range such as 10.0.0.0/8, found {found(cidr)}"
    if given.ip != given.network.network_address:
        return f"{cidr} is not aligned to a CIDR block: the network is {given.network}"
    return ""
