"""Network policies from Python: `Lab.explain_policy` has the values of the command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import msgspec
import pytest

from kubenetlab import AsyncLab, Lab, UsageError
from tests.conftest import LAB_PREFIX
from tests.labs.test_policy_probes import CLUSTER
from tests.patience import patiently
from tests.unit.observe.policies.worlds import pod, policy, service

PODS = (
    pod("web")
    + pod("client")
    + pod("far", "worker2")
    + service("web")
    + service("open", kind="LoadBalancer")
)
POLICIES = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: "
    "{app: client}}}], ports: [{port: 8080}]}]}",
    "web",
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Start a lab in which only `client` may reach `web`, at port 8080."""
    text = CLUSTER + PODS + POLICIES
    with Lab.up(text=text, name=f"{LAB_PREFIX}py-policies", timeout_s=patiently(30)) as lab:
        yield lab


@pytest.mark.parametrize("source", ["client", "far", "node:worker", "ext:client"])
@pytest.mark.parametrize("destination", ["svc:web", "default/web:8080/TCP", "lb:open"])
def test_an_explanation_has_the_values_of_the_command(
    lab: Lab, source: str, destination: str
) -> None:
    """Every field of the command's output is a field of the result."""
    printed = json.loads(lab.run("explain-policy", source, destination, "-o", "json").stdout)
    explained = lab.explain_policy(source, destination)
    own = json.loads(msgspec.json.encode(explained))
    assert printed == {"schema_version": 1, **own}


def test_an_explanation_names_what_decides(lab: Lab) -> None:
    """It is typed, and neither true nor false by itself."""
    denied = lab.explain_policy("far", "pod:web", port=8080, family="IPv4")
    assert (denied.is_denied, denied.is_allowed, denied.decision) == (True, False, "denied")
    assert (denied.destination, denied.port, denied.protocol) == (
        "default/web:8080/TCP",
        8080,
        "TCP",
    )
    assert [(each.kind, each.policy) for each in denied.policies] == [
        ("NetworkPolicy", "default/web")
    ]
    ((path,),) = [endpoint.paths for endpoint in denied.endpoints]
    assert path.egress.allowed
    assert not path.ingress.allowed
    assert path.ingress.end.name == "default/web"
    assert [rule.node for rule in path.ingress.kernel][:1] == ["worker"]
    allowed = lab.explain_policy("client", "pod:web", port=8080, family="IPv6")
    assert (allowed.is_allowed, ":" in allowed.address) == (True, True)
    (rule,) = allowed.endpoints[0].paths[0].ingress.decided_by
    assert (rule.kind, rule.policy, rule.index, rule.action) == (
        "NetworkPolicy",
        "default/web",
        0,
        "Accept",
    )
    assert lab.explain_policy("client", "pod:web", port=8080, protocol="UDP").is_denied
    assert lab.explain_policy("client", "pod:web").protocol == "ICMP"
    with pytest.raises(TypeError, match=r"\.is_allowed or \.is_denied"):
        bool(denied)


def test_an_explanation_agrees_with_a_packet(lab: Lab) -> None:
    for source, is_allowed in (("client", True), ("far", False)):
        assert lab.explain_policy(source, "svc:web").is_allowed is is_allowed
        assert bool(lab.pod(source).can_reach("svc:web")) is is_allowed


def test_an_explanation_is_a_coroutine_of_the_asynchronous_lab(lab: Lab) -> None:
    explained = asyncio.run(AsyncLab(lab).explain_policy("far", "svc:web"))
    assert explained == lab.explain_policy("far", "svc:web")


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ("nobody", "svc:web", "there is no pod default/nobody"),
        ("client", "svc:nobody", "nobody"),
        ("client", "svc:web:81", "81"),
    ],
)
def test_targets_that_do_not_exist_are_refused(
    lab: Lab, source: str, destination: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        lab.explain_policy(source, destination)
