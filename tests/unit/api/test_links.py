"""Settings of links in the Cluster document."""

from __future__ import annotations

import pytest

from kubenetlab.api.config import ClusterConfig, Fabric, FabricLink
from kubenetlab.api.links import LinkSettings, link_settings, parse_loss_ppm, parse_rate_bits
from tests.clusters import problems_of

CLUSTER = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "nodes: [{role: control-plane}, {role: worker}]\nfabric: {links: [{%s}]}\n"
)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("", 0),
        ("100mbit", 10**8),
        ("1.5gbit", 1_500_000_000),
        ("64kbit", 64_000),
        ("8000bit", 8000),
        ("10M", 10**7),
        ("9", 8),
        ("fast", None),
        ("-1mbit", None),
        ("10mbyte", None),
    ],
)
def test_rates_are_written_as_for_tc(text: str, bits: int | None) -> None:
    assert parse_rate_bits(text) == bits


@pytest.mark.parametrize(
    ("text", "ppm"),
    [("", 0), ("1%", 10_000), ("0.5%", 5000), ("100%", 1_000_000), ("101%", None), ("1", None)],
)
def test_losses_are_percentages(text: str, ppm: int | None) -> None:
    assert parse_loss_ppm(text) == ppm


def test_a_later_entry_replaces_the_fields_that_it_has() -> None:
    links = (
        FabricLink(mtu=9000, delay="10ms"),
        FabricLink(node="worker", rate="1gbit", loss="1%"),
        FabricLink(node="worker", mtu=1500),
    )
    config = ClusterConfig(fabric=Fabric(links=links))
    assert link_settings(config, "worker") == LinkSettings(1500, 10**9, 10_000, 10_000)
    assert link_settings(config, "worker2") == LinkSettings(9000, 0, 10_000, 0)
    assert link_settings(ClusterConfig(), "worker") == LinkSettings()


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("mtu: 1000", "fabric.links[0].mtu: expected at least 1280, found 1000"),
        ("mtu: 70000", "fabric.links[0].mtu"),
        (
            "rate: fast",
            'fabric.links[0].rate: expected a rate such as 100mbit or 1gbit, found "fast"',
        ),
        ("rate: 1bit", "fabric.links[0].rate: expected at least 8kbit, found 1bit"),
        ("delay: 10x", 'fabric.links[0].delay: expected a duration such as 10ms, found "10x"'),
        ("delay: 1m", "fabric.links[0].delay: expected at most 10s, found 1m"),
        ("loss: 120%", "fabric.links[0].loss: expected a percentage from 0% to 100%"),
        ("node: workr", 'fabric.links[0].node: there is no node "workr"; did you mean worker?'),
        ("speed: 1", "fabric.links[0].speed"),
    ],
)
def test_a_wrong_setting_is_refused(link: str, message: str) -> None:
    problems = [f"{problem.path}: {problem.message}" for problem in problems_of(CLUSTER % link)]
    assert any(message in problem for problem in problems), problems
