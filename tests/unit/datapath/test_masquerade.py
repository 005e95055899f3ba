"""ip-masq-agent: its ConfigMap and the resulting rules."""

from __future__ import annotations

import json
from textwrap import indent

import pytest

from kubenetlab.datapath import plan
from kubenetlab.errors import ManifestError
from kubenetlab.hoststate.rules.nftables import Chain
from tests.clusters import DUAL, ONLINK, applied, problems_of, running, store

DEFAULT = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]


def config_map(
    config: str, *, namespace: str = "kube-system", name: str = "ip-masq-agent", key: str = "config"
) -> str:
    """Return the manifest of a ConfigMap with a text under its key."""
    meta = f"{{name: {name}, namespace: {namespace}}}"
    return (
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {meta}\ndata:\n  {key}: |\n"
        f"{indent(config, '    ')}\n---\n"
    )


def kept(text: str, family: str = "ip") -> list[str]:
    """Return the ranges towards which `worker` keeps sources.

    The last rule masquerades the rest.
    """
    chains = [
        obj
        for obj in plan(running(store(text)), ONLINK)["node/worker"].values()
        if isinstance(obj, Chain)
    ]
    (chain,) = [obj for obj in chains if (obj.family, obj.name) == (family, "IP-MASQ-AGENT")]
    *rules, last = [rule.text for rule in chain.rules]
    assert last == "masquerade fully-random"
    return [rule.removeprefix(f"{family} daddr ").removesuffix("return").strip() for rule in rules]


@pytest.mark.parametrize(
    ("config", "ranges"),
    [
        (
            "nonMasqueradeCIDRs: [10.244.0.0/16, 10.96.0.0/16]",
            ["169.254.0.0/16", "10.244.0.0/16", "10.96.0.0/16"],
        ),
        (
            json.dumps(
                {
                    "nonMasqueradeCIDRs": ["10.244.0.0/16"],
                    "masqLinkLocal": True,
                    "resyncInterval": "1m30s",
                }
            ),
            ["10.244.0.0/16"],
        ),
        ("masqLinkLocal: false", ["169.254.0.0/16", *DEFAULT]),
        ("# nothing but a comment", ["169.254.0.0/16", *DEFAULT]),
        ("nonMasqueradeCIDRs: []", ["169.254.0.0/16"]),
        ("nonMasqueradeCIDRs: [0.0.0.0/0]", ["169.254.0.0/16", ""]),
        ("nonMasqueradeCIDRs: null", ["169.254.0.0/16", *DEFAULT]),
    ],
)
def test_the_config_map_lists_where_sources_are_kept(config: str, ranges: list[str]) -> None:
    """It is YAML or JSON; missing fields have upstream's defaults."""
    assert kept(config_map(config)) == ranges


def test_without_a_config_map_the_ranges_of_the_cluster_are_kept() -> None:
    """The ranges are those of pods, nodes and Services.

    A ConfigMap with another name or namespace is ignored, one without the key has the defaults.
    """
    own = ["10.244.0.0/16", "172.18.0.0/16", "10.96.0.0/16"]
    config = "nonMasqueradeCIDRs: [10.244.0.0/16]"
    assert kept("") == own
    assert kept(config_map(config, namespace="default")) == own
    assert kept(config_map(config, name="masq")) == own
    assert kept(config_map(config, key="conf")) == ["169.254.0.0/16", *DEFAULT]


def test_each_family_has_its_ranges() -> None:
    """For IPv6 only link-local addresses are kept by default."""
    both = "nonMasqueradeCIDRs: [10.244.0.0/16, 'fd00:10:244::/56']\nmasqLinkLocalIPv6: "
    assert kept(DUAL + config_map(both + "false"), "ip6") == ["fe80::/10", "fd00:10:244::/56"]
    assert kept(DUAL + config_map(both + "true"), "ip6") == ["fd00:10:244::/56"]
    assert kept(DUAL + config_map(both + "true"), "ip") == ["169.254.0.0/16", "10.244.0.0/16"]
    assert kept(DUAL + config_map("masqLinkLocal: true"), "ip6") == ["fe80::/10"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "nonMasqueradeCIDRs: [10.0.0.1/8]",
            "nonMasqueradeCIDRs[0]: 10.0.0.1/8 is not aligned to a CIDR block: the network "
            "is 10.0.0.0/8",
        ),
        (
            "nonMasqueradeCIDRs: [10.0.0.0]",
            'nonMasqueradeCIDRs[0]: expected a range such as 10.0.0.0/8, found "10.0.0.0"',
        ),
        (
            "nonMasqueradeCIDRs: [10.0.0.0/255.0.0.0]",
            "nonMasqueradeCIDRs[0]: expected a range such as 10.0.0.0/8, "
            'found "10.0.0.0/255.0.0.0"',
        ),
        ("nonMasqueradeCIDRs: 10.0.0.0/8", "nonMasqueradeCIDRs: expected a list"),
        (
            "nonMasqueradeCIDRs: [10.0.0.0/8, 11.0.0.0/8]\ncidrLimit: 1",
            "nonMasqueradeCIDRs: expected at most 1 ranges (cidrLimit), found 2",
        ),
        (
            json.dumps({"nonMasqueradeCIDRs": [f"10.0.{number}.0/24" for number in range(65)]}),
            "nonMasqueradeCIDRs: expected at most 64 ranges (cidrLimit), found 65",
        ),
        ("resyncInterval: 60", "resyncInterval: expected a string, found 60"),
        ("resyncInterval: soon", 'resyncInterval: expected a duration such as 60s, found "soon"'),
        ("- a", "expected one mapping such as {nonMasqueradeCIDRs: [10.0.0.0/8]}"),
        ("masqLinkLocal: [", "line "),
    ],
)
def test_a_wrong_configuration_is_refused(config: str, message: str) -> None:
    """The message names the ConfigMap, the line of its key, and the field."""
    (problem,) = problems_of(config_map(config))
    assert str(problem).startswith(
        f"test.yaml:5  ConfigMap kube-system/ip-masq-agent: data.config: {message}"
    )
    assert not problem.is_warning


def test_an_unknown_field_is_a_warning() -> None:
    """This is the same as in any document."""
    (problem,) = problems_of(config_map("nonMasqCIDRs: []"))
    assert (problem.is_warning, problem.message) == (
        True,
        "nonMasqCIDRs: unknown field; did you mean nonMasqueradeCIDRs?",
    )
    assert problems_of(config_map("nonMasqCIDRs: []"), strict=True)[0].is_warning is False


def test_a_range_of_a_family_that_the_cluster_lacks_is_refused() -> None:
    """Upstream's agent without --enable-ipv6 does so, too; a dual-stack cluster accepts it."""
    text = config_map("nonMasqueradeCIDRs: [10.0.0.0/8, 'fd00::/8']")
    message = "data.config: nonMasqueradeCIDRs[1]: this cluster has no IPv6, found fd00::/8"
    with pytest.raises(ManifestError) as error:
        applied(store(), text)
    assert message in str(error.value)
    with pytest.raises(ManifestError):
        store(text)
    assert applied(store(DUAL), text) is not None
