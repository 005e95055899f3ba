"""Configuration of ip-masq-agent in the ConfigMap `kube-system/ip-masq-agent`.

It is YAML or JSON in the key `config`. Source: kubernetes-sigs/ip-masq-agent README.md and
cmd/ip-masq-agent/ip-masq-agent.go (MasqConfig, validate).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_interface
from typing import Final

from kubenetlab.api.environment import ConfigMap
from kubenetlab.api.meta import Record
from kubenetlab.api.text.decode import Decoded, Finding, decode, format_path, found
from kubenetlab.api.text.documents import Path, read_documents
from kubenetlab.api.values.durations import duration_s
from kubenetlab.api.values.ip import version_of

CONFIG_MAP: Final = ("kube-system", "ip-masq-agent")
"""Namespace and name of the ConfigMap."""
KEY: Final = "config"
"""Key of the configuration."""


class MasqueradeConfig(Record, frozen=True):
    """Destinations for which a node keeps the source address. Defaults are those of upstream."""

    non_masquerade_cidrs: tuple[str, ...] = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    """IPv4 and IPv6 destination ranges that are not masqueraded."""
    cidr_limit: int = 64
    """Maximum number of ranges."""
    masq_link_local: bool = False
    """If true, traffic to 169.254.0.0/16 is masqueraded too."""
    masq_link_local_ipv6: bool = False
    """If true, traffic to fe80::/10 is masqueraded too."""
    resync_interval: str = "60s"
    """Period in which upstream's agent reads its file again. The lab applies changes at once."""


def masquerade_config(config_map: ConfigMap) -> MasqueradeConfig | None:
    """Return the configuration in a ConfigMap; None if the text is invalid.

    Without the key, return the defaults of upstream.
    """
    return _decode(config_map).value


def masquerade_findings(config_map: ConfigMap) -> Iterator[Finding]:
    """Yield the mistakes in a configuration."""
    path: Path = ("data", KEY)
    decoded = _decode(config_map)
    for finding in decoded.findings:
        field = f"{format_path(finding.path)}: " if finding.path else ""
        yield Finding(path, f"{field}{finding.message}", finding.is_unknown_field, finding.hints)
    if (config := decoded.value) is None:
        return
    count = len(config.non_masquerade_cidrs)
    if count > config.cidr_limit:
        message = f"expected at most {config.cidr_limit} ranges (cidrLimit), found {count}"
        yield Finding(path, f"nonMasqueradeCIDRs: {message}")
    for index, cidr in enumerate(config.non_masquerade_cidrs):
        if fault := _range_fault(cidr):
            yield Finding(path, f"nonMasqueradeCIDRs[{index}]: {fault}")
    interval = config.resync_interval
    if not interval or duration_s(interval) is None:
        message = f"expected a duration such as 60s, found {found(interval)}"
        yield Finding(path, f"resyncInterval: {message}")


def foreign_ranges(config_map: ConfigMap, versions: Sequence[int]) -> Iterator[Finding]:
    """Yield a finding for each IPv6 range in a cluster without IPv6.

    Upstream's agent rejects such ranges without --enable-ipv6.
    versions: IP versions of the cluster.
    """
    if config_map.key != CONFIG_MAP or 6 in versions:
        return
    config = masquerade_config(config_map)
    for index, cidr in enumerate(config.non_masquerade_cidrs if config is not None else ()):
        if version_of(cidr) == 6:
            yield Finding(
                ("data", KEY),
                f"nonMasqueradeCIDRs[{index}]: this cluster has no IPv6, found {cidr}",
            )


def _decode(config_map: ConfigMap) -> Decoded[MasqueradeConfig]:
    documents, problems = read_documents(KEY, config_map.data.get(KEY, "").encode())
    if problems:
        findings = (
            Finding((), f"line {problem.line}: {problem.message}", hints=problem.hints)
            for problem in problems
        )
        return Decoded(None, tuple(findings))
    if not documents:
        return Decoded(MasqueradeConfig())
    if len(documents) > 1 or not isinstance(documents[0].value, dict):
        return Decoded(
            None, (Finding((), "expected one mapping such as {nonMasqueradeCIDRs: [10.0.0.0/8]}"),)
        )
    return decode(documents[0].value, MasqueradeConfig)


def _range_fault(cidr: str) -> str:
    """Return the reason why a range is invalid; an empty text for a valid one."""
    try:
        interface = ip_interface(cidr)
    except ValueError:
        interface = None
    if interface is None or "/" not in cidr or not cidr.partition("/")[2].isdigit():
        return f"expected a range such as 10.0.0.0/8, found {found(cidr)}"
    if interface.ip != interface.network.network_address:
        return f"{cidr} is not aligned to a CIDR block: the network is {interface.network}"
    return ""
