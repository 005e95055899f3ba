"""Rules after many changes, one by one, in each mode of kube-proxy: always what making them anew would give."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from kubenetlab.cli.input.options import mode
from kubenetlab.datapath import plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules.bpf import BpfPrograms, PodLink
from kubenetlab.hoststate.rules.rulesets import (
    ExactBackend,
    RuleObject,
    by_backend,
    dialect,
    names,
    steps,
)
from kubenetlab.kernel.rules.backends import Loader, open_here
from tests.clusters import ONLINK, running, store
from tests.kernel.comparing import lines

MODES = {
    "nftables,layout=faithful": (),
    "nftables,layout=fast": (),
    "iptables": ("iptables",),
    "ipvs": ("ipset", "iptables", "ipvs"),
    "ebpf": ("bpf",),
}
"""Mode → the dialects in which its rules are, beside those that are there in any."""
STEPS = 25
SEEDS = (1, 2)
ON_SECOND_KERNEL = {**dict.fromkeys(MODES, (1,)), "iptables": (), "ipvs": SEEDS}
"""Mode → the seeds that run on the second kernel, too. IPVS is only there; iptables' programs behave alike on both."""


def manifests(proxy: str, seed: int) -> Iterator[str]:
    """Clusters that differ from one to the next by some Services, and by how many pods are behind them."""
    draw = random.Random(seed)
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
    chosen = {name: (draw.choice(kinds), draw.randint(0, 3)) for name in "abcdef"}
    for _ in range(STEPS):
        for name in draw.sample("abcdef", 2):
            chosen[name] = (
                (draw.choice(kinds), draw.randint(0, 3)) if draw.random() < 0.8 else ("", -1)
            )
        yield "".join(
            (
                "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n",
                f"networking: {{ipFamily: dual, kubeProxyMode: {mode(proxy)}}}\n".replace("'", '"'),
                *(
                    f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{number}, labels: {{app: {name}}}}}\n"
                    "spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}\n"
                    for name, (_, count) in chosen.items()
                    for number in range(count)
                ),
                *(
                    f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{kind}clusterIP: 10.96.0.{ord(name)}, "
                    f"ipFamilyPolicy: PreferDualStack, selector: {{app: {name}}}, "
                    f"ports: [{{name: t, port: {ord(name)}, targetPort: 8080}}, {{name: u, port: {ord(name)}, protocol: UDP, targetPort: 8081}}]}}\n"
                    for name, (kind, count) in chosen.items()
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


def differences(loaders: dict[str, Loader], wanted: list[RuleObject]) -> list[str]:
    found: list[str] = []
    rewritten: list[RuleObject] = []
    for name, objects in by_backend(wanted).items():
        words = dialect(name)
        if isinstance(words, ExactBackend):
            found += [
                difference.line
                for difference in words.differences(
                    objects, loaders[name].listed(words.names(objects))
                )
            ]
        else:
            rewritten += objects
    return found + lines(rewritten)


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
def test_changes_add_up(proxy: str, seed: int) -> None:
    """Services of every kind come, change and go; after each step nothing lacks and nothing is too much."""
    memo = PlanCache()
    before: list[RuleObject] = []
    plugged = {"lo"}
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def plug_in(links: set[str]) -> None:
        """Links on which programs are to be."""
        for link in links:
            subprocess.run(
                ["ip", "link", "add", link, "type", "veth", "peer", "name", f"{link}-peer"],
                check=True,
            )
        plugged.update(links)

    with ExitStack() as stack:
        try:
            loaders = {
                name: stack.enter_context(closing(open_here(name)))
                for name in ("nftables", "conntrack", *MODES[proxy])
            }
        except RequirementError as error:
            pytest.skip(str(error))
        for number, text in enumerate(manifests(proxy, seed)):
            wanted = rules(text, memo)
            plug_in(
                {
                    link
                    for obj in wanted
                    if isinstance(obj, BpfPrograms | PodLink)
                    for link in obj.links
                }
                - plugged
            )
            for step in steps(before, wanted, names(before), anew=False):
                loaders[step.dialect].run(step.text)
            assert differences(loaders, wanted) == [], f"step {number}"
            before = wanted
