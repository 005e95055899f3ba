"""Policies of Cilium in the kernel: denials, entities, ICMP, names, Services, checks."""

from __future__ import annotations

import pytest

from tests.clusters import pod
from tests.labs.lab import Lab, wait_for
from tests.labs.shop import reached
from tests.libbpf import NEEDS_LIBBPF

pytestmark = NEEDS_LIBBPF

CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {cni: %s, ipFamily: dual}
external:
- {name: client, address: 198.51.100.10}
- {name: api.example.com, address: 198.51.100.20, ports: [443]}
- {name: www.example.org, address: 198.51.100.30, ports: [443]}
---
"""
CILIUM = CLUSTER % "cilium"
PODS = (
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n"
    + pod("web", ", nodeName: worker", meta=", namespace: shop, labels: {app: web}")
    + pod("friend", ", nodeName: worker2", meta=", namespace: shop, labels: {app: friend}")
    + pod("stranger", ", nodeName: worker")
)
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
"""


def policy(name: str, rules: str, app: str = "web") -> str:
    """Return a policy of the pods of the namespace `shop` with a label."""
    return (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: shop}}\n"
        f"spec: {{endpointSelector: {{matchLabels: {{app: {app}}}}}, {rules}}}\n---\n"
    )


def test_rules_that_deny_come_before_those_that_allow(lab: Lab) -> None:
    """Each change takes effect without a restart, in both families."""
    lab.up(CILIUM + PODS + policy("web", "ingress: [{fromEndpoints: [{}]}]"))
    assert (reached(lab, "stranger"), reached(lab, "shop/friend")) == ([False] * 2, [True] * 2)
    lab.apply(policy("open", "ingress: [{fromEntities: [cluster]}]"))
    wait_for(lambda: all(reached(lab, "stranger")), "the union of two policies")
    denied = "ingressDeny: [{fromEndpoints: [{matchLabels: {app: friend}}]}]"
    lab.apply(policy("closed", f"{denied}, enableDefaultDeny: {{ingress: false}}"))
    wait_for(lambda: not any(reached(lab, "shop/friend")), "a rule that denies")
    assert all(reached(lab, "stranger"))
    lab.run("delete", "ciliumnetworkpolicies", "web", "open", "-n", "shop")
    assert not any(reached(lab, "shop/friend"))
    assert all(reached(lab, "stranger"))
    lab.run("delete", "ciliumnetworkpolicies", "closed", "-n", "shop")
    wait_for(lambda: all(reached(lab, "shop/friend")), "a pod without policies")


def test_the_short_name_cnp_is_that_of_cilium(lab: Lab) -> None:
    """Unless only a ClusterNetworkPolicy has the name."""
    cluster_policy = (
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        "metadata: {name: all}\n"
        "spec: {tier: Baseline, priority: 1, subject: {namespaces: {}}}\n---\n"
    )
    lab.up(CILIUM + PODS + policy("web", "ingress: [{}]") + cluster_policy, "--nodes", "3")
    assert "endpointSelector:" in lab.run("describe", "cnp", "-n", "shop").out
    (document,) = lab.run("get", "cnp", "-n", "shop", "-o", "json").json["items"]
    assert document["kind"] == "CiliumNetworkPolicy"
    assert "Baseline" in lab.run("describe", "cnp", "all").out
    lab.run("delete", "cnp", "all")
    lab.run("delete", "cnp", "web", "-n", "shop")
    assert "nothing found" in lab.run("describe", "cnp", "-n", "shop").out


def test_a_denied_connection_is_explained_with_its_rule(lab: Lab) -> None:
    """The kernel has the name of the list, and the explanation file and line of the rule."""
    lab.up(CILIUM + PODS + policy("web", "ingressDeny: [{fromEntities: [cluster]}]"))
    explained = lab.run("explain-policy", "stranger", "shop/web:8080", "-o", "json").json
    (path,) = explained["endpoints"][0]["paths"]
    (rule,) = path["ingress"]["decided_by"]
    assert (rule["kind"], rule["policy"], rule["action"]) == (
        "CiliumNetworkPolicy",
        "shop/web",
        "Deny",
    )
    assert rule["place"]
    assert "CiliumNetworkPolicy shop/web_deny Ingress rule 0" in str(path["ingress"]["kernel"])
    described = lab.run("describe", "ciliumnetworkpolicy", "web", "-n", "shop").out
    assert "ebpf" in described
    assert "shop/web (" in described
    assert "Peers of Rules:\n  spec.ingressDeny[0]:\n    shop/web (" in described


def test_pings_and_checks_expect_what_the_policies_promise(lab: Lab) -> None:
    """Nodes, hosts outside, names, ICMP types, Services: every pair of the lab, with packets."""
    rules = (
        "ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '8080', protocol: TCP}]}]},"
        " {icmps: [{fields: [{type: 8}]}]}],"
        " egress: [{toEntities: [remote-node]}, {toCIDR: [0.0.0.0/0, '::/0']}]"
    )
    names = (
        "egress: [{toEntities: [cluster], toPorts: [{ports: [{port: '53'}],"
        " rules: {dns: [{matchPattern: '*'}]}}]},"
        " {toFQDNs: [{matchPattern: '*.example.com'}]},"
        " {toServices: [{k8sService: {serviceName: web}}]}]"
    )
    lab.up(CILIUM + PODS + SERVICE + policy("web", rules) + policy("friend", names, "friend"))
    lab.run("ping")
    lab.run("check")
    lab.run("ping", "shop/friend", "ext:api.example.com", "--tcp", "443")
    denied = lab.run("ping", "shop/friend", "ext:www.example.org", "--tcp", "443")
    assert "CiliumNetworkPolicy shop/friend isolates shop/friend for egress" in denied.out
    lab.apply(policy("friend", "egress: [{}]", "friend"))
    lab.run("check")


@pytest.mark.parametrize("cni", ["bridge", "calico"])
def test_other_modes_report_the_policies(lab: Lab, cni: str) -> None:
    """A check fails, because a connection may be denied in a cluster."""
    lab.up(CLUSTER % cni + PODS + policy("web", "ingress: [{}]"))
    assert "not enforced" in lab.run("check", status=1).out


def test_requests_on_layer_7_fail_a_check(lab: Lab) -> None:
    """The ports are enforced; the lab says that it allows all requests."""
    http = (
        "ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '8080', protocol: TCP}],"
        " rules: {http: [{method: GET}]}}]}]"
    )
    lab.up(CILIUM + PODS + policy("web", http))
    assert (reached(lab, "stranger"), reached(lab, "shop/friend")) == ([False] * 2, [True] * 2)
    checked = lab.run("check", "-o", "json", status=1).json
    (field,) = [each for each in checked["diagnostics"] if "rules.http" in each["path"]]
    assert field["affects"]
    assert {each.partition(" → ")[0] for each in field["affects"]} == {"pod/shop/friend"}
    assert all("shop/web:8080/TCP" in each for each in field["affects"])
    assert "rules.http" in lab.run("ping", "shop/friend", "shop/web", "--tcp", "8080", status=1).out
    explained = lab.run("explain-policy", "shop/friend", "shop/web:8080", "-o", "json").json
    assert [each["path"] for each in explained["could_differ"]] == [field["path"]]
    lab.run("ping", "stranger", "shop/web", "--tcp", "8080")
    lab.run("ping", "shop/friend", "shop/web")
    described = lab.run("describe", "ciliumnetworkpolicy", "web", "-n", "shop").out
    assert "Not Enforced:\n  spec.ingress[0].toPorts[0].rules.http: not enforced" in described


def test_groups_of_ranges_take_effect_when_they_change(lab: Lab) -> None:
    """Ranges and labels of a group change in a running lab; a missing group matches nothing."""
    rules = (
        "egress: [{toCIDRSet: [{cidrGroupRef: partners, except: [198.51.100.20/32]}]},"
        " {toCIDRSet: [{cidrGroupSelector: {matchLabels: {role: mirror}}}]}]"
    )
    group = (
        "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\n"
        "metadata: {name: %s, labels: {role: %s}}\nspec: {externalCIDRs: [%s]}\n---\n"
    )

    def expect(*reached: str) -> None:
        """Wait until a pod reaches these hosts outside, and no others."""
        hosts = {"client": "198.51.100.10", "api": "198.51.100.20", "www": "198.51.100.30"}
        targets = [("TCP", address, 443) for address in hosts.values()]
        desired = [name in reached for name in hosts]

        def is_reached() -> bool:
            # The client has no listener, so that it refuses connections at once.
            answers = lab.ask(lab.pod("web", "shop"), *targets)
            return [each.error in ("", "refused") for each in answers] == desired

        wait_for(is_reached, f"connections to {reached}")

    lab.up(CILIUM + PODS + policy("web", rules))
    expect()
    described = lab.run("describe", "ciliumnetworkpolicy", "web", "-n", "shop").out
    assert "partners: no such group" in described
    assert "there is no CiliumCIDRGroup partners" in lab.run("check").out
    lab.apply(group % ("partners", "none", "198.51.100.0/24"))
    expect("client", "www")
    described = lab.run("describe", "ciliumnetworkpolicy", "web", "-n", "shop").out
    assert "partners: 198.51.100.0/24" in described
    lab.apply(group % ("partners", "none", "198.51.100.30/32"))
    expect("www")
    lab.apply(group % ("mirrors", "mirror", "198.51.100.20/32"))
    expect("api", "www")
    lab.run("ping")
    lab.run("check")
    explained = lab.run("explain-policy", "shop/web", "ext:api.example.com:443").out
    assert "CiliumNetworkPolicy shop/web rule 1" in explained
    assert "198.51.100.20/32" in lab.run("get", "ciliumcidrgroups", "-o", "wide").out
    lab.apply(group % ("mirrors", "other", "198.51.100.20/32"))
    expect("www")
    lab.run("delete", "ccg", "partners")
    expect()
