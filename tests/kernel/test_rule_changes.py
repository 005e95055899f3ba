"""Sequences of rule changes in each proxy mode: the result equals a fresh load of all rules."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from kubenetlab.cli.input.mode_options import parse_mode
from kubenetlab.datapath import plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules.bpf import BpfPrograms, PodLink
from kubenetlab.hoststate.rules.rulesets import (
    ExactBackend,
    RuleObject,
    by_backend,
    names,
    rule_backend,
)
from kubenetlab.hoststate.rules.transactions import steps
from kubenetlab.kernel.rules.backends import Loader, open_loader
from tests.clusters import ONLINK, running, store
from tests.kernel.comparing import lines

MODES = {
    "nftables,layout=faithful": (),
    "nftables,layout=fast": (),
    "iptables": ("iptables",),
    "ipvs": ("ipset", "iptables", "ipvs"),
    "ebpf": ("bpf",),
}
"""Mode → its rule backends besides nftables and conntrack."""
STEPS = 10 if "KUBENETLAB_VM" in os.environ else 25
"""Number of changes; each takes seconds on the emulated machine."""
SEEDS = (1, 2)
ON_SECOND_KERNEL = {**dict.fromkeys(MODES, (1,)), "iptables": (), "nftables,layout=fast": ()}
"""Mode → seeds that also run on the emulated kernel.

Only that kernel has IPVS. The programs of iptables behave alike on both, and both layouts of
nftables use the same messages."""


def manifests(proxy: str, seed: int) -> Iterator[str]:
    """Yield clusters that differ by some Services, and by the number of pods behind them."""
    generator = random.Random(seed)
    kinds = (
        "",
        "type: NodePort, ",
        "type: LoadBalancer, ",
        "type: NodePort, externalTrafficPolicy: Local, ",
        "internalTrafficPolicy: Local, ",
        "sessionAffinity: ClientIP, ",
        'externalIPs: ["192.0.2.50"], ',
        "type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.0/24], ",
    )
    services = {name: (generator.choice(kinds), generator.randint(0, 3)) for name in "abcdef"}
    for _ in range(STEPS):
        for name in generator.sample("abcdef", 2):
            services[name] = (
                (generator.choice(kinds), generator.randint(0, 3))
                if generator.random() < 0.8
                else ("", -1)
            )
        yield "".join(
            (
                "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n",
                f"networking: {{ipFamily: dual, kubeProxyMode: {parse_mode(proxy)}}}\n".replace(
                    "'", '"'
                ),
                *(
                    "---\napiVersion: v1\nkind: Pod\nmetadata: "
                    f"{{name: {name}{number}, labels: {{app: {name}}}}}\n"
                    "spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: "
                    "[netexec]}]}\n"
                    for name, (_, count) in services.items()
                    for number in range(count)
                ),
                *(
                    f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: "
                    f"{{{kind}clusterIP: 10.96.0.{ord(name)}, "
                    f"ipFamilyPolicy: PreferDualStack, selector: {{app: {name}}}, "
                    f"ports: [{{name: t, port: {ord(name)}, targetPort: 8080}}, "
                    f"{{name: u, port: {ord(name)}, protocol: UDP, targetPort: 8081}}]}}\n"
                    for name, (kind, count) in services.items()
                    if count >= 0
                ),
            )
        )


def rules(text: str, memo: PlanCache) -> list[RuleObject]:
    return [
        obj
        for obj in plan(running(store(text)), ONLINK, memo)["node/worker"].values()
        if isinstance(obj, RuleObject)
    ]


def differences(loaders: dict[str, Loader], desired: list[RuleObject]) -> list[str]:
    result: list[str] = []
    rewritten: list[RuleObject] = []
    for name, objects in by_backend(desired).items():
        backend = rule_backend(name)
        if isinstance(backend, ExactBackend):
            result += [
                difference.line
                for difference in backend.differences(
                    objects, loaders[name].listed(backend.names(objects))
                )
            ]
        else:
            rewritten += objects
    return result + lines(rewritten)


@pytest.mark.parametrize(
    ("proxy", "seed"),
    [
        pytest.param(
            proxy, seed, marks=() if seed in ON_SECOND_KERNEL[proxy] else pytest.mark.first_kernel
        )
        for proxy in MODES
        for seed in SEEDS
    ],
)
def test_incremental_changes_reach_the_desired_rules(proxy: str, seed: int) -> None:
    """Services of all kinds are added, changed and deleted; after each step nothing differs."""
    memo = PlanCache()
    before: list[RuleObject] = []
    existing_links = {"lo"}
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def add_links(links: set[str]) -> None:
        """Create the links to which programs will be attached."""
        for link in links:
            subprocess.run(
                ["ip", "link", "add", link, "type", "veth", "peer", "name", f"{link}-peer"],
                check=True,
            )
        existing_links.update(links)

    with ExitStack() as stack:
        try:
            loaders = {
                name: stack.enter_context(closing(open_loader(name)))
                for name in ("nftables", "conntrack", *MODES[proxy])
            }
        except RequirementError as error:
            pytest.skip(str(error))
        for number, text in enumerate(manifests(proxy, seed)):
            desired = rules(text, memo)
            add_links(
                {
                    link
                    for obj in desired
                    if isinstance(obj, BpfPrograms | PodLink)
                    for link in obj.links
                }
                - existing_links
            )
            for step in steps(before, desired, names(before), anew=False):
                loaders[step.backend].run(step.text)
            assert differences(loaders, desired) == [], f"step {number}"
            before = desired
