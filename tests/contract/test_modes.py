"""Checks of every CNI and proxy mode found on disk."""

from __future__ import annotations

import msgspec
import pytest

from kubenetlab.api.lab import Decisions
from kubenetlab.datapath import manuals, modes, plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import ManifestError
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.rules.rulesets import RuleObject
from kubenetlab.hoststate.rules.transactions import steps
from kubenetlab.hoststate.state import Contents, HostState
from kubenetlab.kernel.fake import FakeKernel
from kubenetlab.names import MAX_LINK_NAME
from tests.clusters import applied, decided, deployment, running, service, store

CNIS, PROXY_MODES = modes.known("cni"), modes.known("proxy")
LAYOUTS = [
    decided(layout, neighbors)
    for layout in ("onlink", "routed")
    for neighbors in ("dynamic", "permanent")
]


def lab(cni: str, proxy: str) -> str:
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{cni: {cni}, kubeProxyMode: {proxy}}}\n---\n{deployment()}{service()}"
    )


@pytest.mark.parametrize(
    "decisions", LAYOUTS, ids=lambda made: f"{made.cni_options['layout']}-{made.neighbors}"
)
@pytest.mark.parametrize("proxy", PROXY_MODES)
@pytest.mark.parametrize("cni", CNIS)
def test_a_plan_can_be_applied_and_leaves_no_difference(
    cni: str, proxy: str, decisions: Decisions
) -> None:
    """After plan, apply and observe the difference is empty, initially and after changes."""
    kernel, cache = FakeKernel(), PlanCache()
    cluster = running(store(lab(cni, proxy)))
    for state in (
        cluster,
        running(applied(cluster, deployment(replicas=1))),
        running(applied(cluster, deployment(replicas=5))),
    ):
        desired = plan(state, decisions, cache)
        everything: dict[str, Contents] = {
            netns: {} for netns in (*desired.namespaces, *namespaces_of(kernel))
        }
        kernel.apply(diff(HostState(kernel.observe(everything)), desired)).raise_failures()
        assert not diff(HostState(kernel.observe(everything)), desired)


def namespaces_of(kernel: FakeKernel) -> list[str]:
    return list(kernel._namespaces)


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in modes.FAMILIES for name in modes.known(family)],
)
def test_a_mode_has_a_manual_and_defaults(family: str, name: str) -> None:
    """The manual's first line names the mode; all options have defaults; others are rejected."""
    assert manuals.manual(family, name).startswith(f"{name}: ")
    assert modes.load(family, name, {}) == modes.load(family, name, {})
    mode, _ = modes.try_load(family, name, {})
    assert isinstance(mode, modes.ModeOptions)
    assert all(
        field.default is not msgspec.NODEFAULT for field in msgspec.structs.fields(type(mode))
    )
    mode, findings = modes.try_load(family, name, {"nosuch": 1})
    assert mode is None
    assert "unknown field" in findings[0].message


@pytest.mark.parametrize("name", modes.known("policy"))
def test_the_manual_of_a_policy_engine_says_when_pings_pass(name: str) -> None:
    """Isolated pods do not answer a ping unless a rule has no ports, or names ICMP."""
    mode, _ = modes.try_load("policy", name, {})
    text = " ".join(manuals.manual("policy", name).split())
    is_stated = "passes to or from an isolated pod only by a rule without ports" in text
    assert is_stated == bool(mode is not None and mode.enforced_kinds)


@pytest.mark.parametrize("proxy", PROXY_MODES)
@pytest.mark.parametrize("cni", CNIS)
def test_names_fit_the_kernel(cni: str, proxy: str) -> None:
    """Names of links have at most 15 characters, also for long names of nodes and hosts."""
    long = "a-rather-long-name-for-a-node.example.com"
    text = lab(cni, proxy).replace(
        "kind: Cluster\n",
        f"kind: Cluster\nnodes: [{{role: worker, name: {long}}}, {{role: worker, name: {long}2}}]\n"
        f"external: [{{name: {long}, address: 198.51.100.7}}]\n",
        1,
    )
    state = plan(running(store(text)), LAYOUTS[0])
    links = [obj.name for obj in state.objects() if obj.key[0] == "Link"]  # type: ignore[attr-defined]
    assert all(0 < len(name) <= MAX_LINK_NAME for name in links)
    assert len({(obj.netns, obj.key) for obj in state.objects()}) == len(state)


@pytest.mark.parametrize("cni", CNIS)
def test_an_invalid_range_is_a_finding_beside_those_of_a_mode(cni: str) -> None:
    """A mode that looks at the ranges of a Cluster document gets only valid ones."""
    text = lab(cni, "none").replace("networking: {", "networking: {podSubnet: default, ")
    with pytest.raises(ManifestError, match=r'networking.podSubnet: .*found "default"'):
        store(text)


@pytest.mark.parametrize("proxy", PROXY_MODES)
def test_rules_do_not_depend_on_earlier_rules(proxy: str) -> None:
    """A stepwise change ends with the same rules as creating them from scratch."""
    cluster = running(store(lab("bridge", proxy)))
    states = [
        plan(state, LAYOUTS[0])
        for state in (cluster, running(applied(cluster, deployment(replicas=1))))
    ]
    rules = [
        [obj for obj in state["node/worker"].values() if isinstance(obj, RuleObject)]
        for state in states
    ]
    assert steps(rules[0], rules[1], {}, anew=False) or proxy == "none"
    assert not steps(rules[1], rules[1], {}, anew=False)
