"""Advice about NetworkPolicies: the field of each, and similar useful policies."""

from __future__ import annotations

import pytest

from kubenetlab.api.text.decode import format_path
from kubenetlab.diagnostics import ADVICE, MISCONFIGURATIONS, Diagnostic, diagnose, refused_codes
from tests.clusters import pod, service, store

PODS = """\
apiVersion: v1
kind: Namespace
metadata: {name: prod, labels: {team: ops}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, tier: front}}
    spec:
      containers: [{name: main, image: shop, ports: [{containerPort: 8080, name: http}]}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: main, image: db}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, labels: {app: agent}}
spec: {hostNetwork: true, containers: [{name: main, image: agent}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: prod, labels: {app: api}}
spec: {containers: [{name: main, image: api}]}
---
"""


def policy(spec: str, name: str = "p", namespace: str = "default") -> str:
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )


def advice_on(*policies: str) -> list[Diagnostic]:
    return [item for item in diagnose(store(PODS + "".join(policies))) if item.code in ADVICE]


def web(rest: str, name: str = "p") -> str:
    """Return a policy for `web` with a rule, or with all rules of a direction."""
    return policy(f"{{podSelector: {{matchLabels: {{app: web}}}}, {rest}}}", name)


FINDINGS = [
    (
        policy("{podSelector: {matchLabels: {app: wep}}}"),
        "policy-selects-no-pod",
        "spec.podSelector",
        "no pod and no workload in namespace default has the labels app=wep; did you mean app=web?",
    ),
    (
        policy("{podSelector: {}}", namespace="kube-public"),
        "policy-selects-no-pod",
        "spec.podSelector",
        "namespace kube-public has no pod",
    ),
    (
        policy("{podSelector: {matchLabels: {app: agent}}}"),
        "policy-selects-no-pod",
        "spec.podSelector",
        "only pods with hostNetwork",
    ),
    (
        web("ingress: [{from: [{podSelector: {matchLabels: {app: api}}}]}]"),
        "policy-peer-unmatched",
        "spec.ingress[0].from[0]",
        "no pod and no workload in namespace default has the labels app=api",
    ),
    (
        web("egress: [{to: [{namespaceSelector: {matchLabels: {team: opps}}}]}]"),
        "policy-peer-unmatched",
        "spec.egress[0].to[0]",
        "no namespace has the labels team=opps; did you mean team=ops?",
    ),
    (
        web(
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {podSelector: {matchExpressions: "
            "[{key: tier, operator: In, values: [back, middle]}]}}]}]"
        ),
        "policy-peer-unmatched",
        "spec.ingress[0].from[1]",
        "tier in (back,middle)",
    ),
    (
        web("ingress: [{from: [{podSelector: {matchLabels: {app: agent}}}]}]"),
        "policy-peer-unmatched",
        "spec.ingress[0].from[0]",
        "whose packets come from their node",
    ),
    (
        web("ingress: [{ports: [{port: htpp}]}]"),
        "policy-port-unknown",
        "spec.ingress[0].ports[0].port",
        "no destination has a TCP port named htpp; did you mean http?",
    ),
    (
        web("egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]"),
        "policy-port-unknown",
        "spec.egress[0].ports[0].port",
        "no destination has a TCP port named http",
    ),
    (
        service("nginx", port=80, target=8080)
        + pod(
            "n", meta=", labels: {app: nginx}", container=", ports: [{containerPort: 8080}]"
        ).replace("agnhost, args: [netexec]", "nginx")
        + policy("{podSelector: {matchLabels: {app: nginx}}, ingress: [{ports: [{port: 80}]}]}"),
        "policy-port-unknown",
        "spec.ingress[0].ports[0].port",
        "no destination has the port 80/TCP",
    ),
    (
        service(port=80, target="http") + web("ingress: [{ports: [{port: 80}]}]"),
        "policy-port-unknown",
        "spec.ingress[0].ports[0].port",
        "no destination has the port 80/TCP: it is the port of Service default/web, which sends "
        "connections to port 8080 of its pods",
    ),
    (
        service(port=80, target=8080)
        + web("egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]"),
        "policy-port-unknown",
        "spec.egress[0].ports[0].port",
        "it is the port of Service default/web",
    ),
    (
        web("ingress: [{from: []}]"),
        "policy-peers-empty",
        "spec.ingress[0].from",
        "it is empty, which means all sources, also outside of the cluster",
    ),
    (
        web("egress: [{to: [{podSelector: {}}]}, {to: , ports: [{port: 5353, protocol: UDP}]}]"),
        "policy-peers-empty",
        "spec.egress[1].to",
        "it is empty, which means all destinations",
    ),
    *(
        (
            policy(spec),
            "policy-spec-missing",
            "",
            "it has no spec: it isolates all pods of namespace default for ingress",
        )
        for spec in ("", "{}")
    ),
    (
        policy("").replace("spec:", ""),
        "policy-spec-missing",
        "",
        "it has no spec",
    ),
    (
        web("policyTypes: [Ingress], egress: [{to: []}]"),
        "policy-rule-redundant",
        "spec.egress",
        "policyTypes does not contain Egress",
    ),
    (
        web("policyTypes: [Ingress], egress: [{}]"),
        "policy-rule-redundant",
        "spec.egress",
        "policyTypes does not contain Egress",
    ),
    (
        web("ingress: [{ports: [{port: 8080}]}, {ports: [{port: 8000, endPort: 9000}]}]"),
        "policy-rule-redundant",
        "spec.ingress[0]",
        "it allows nothing that spec.ingress[1] does not allow",
    ),
    (
        web("ingress: [{ports: [{port: 8080}]}]")
        + policy("{podSelector: {}, ingress: [{}]}", "all"),
        "policy-shadowed",
        "",
        "other policies of the same pods do not allow: default/all",
    ),
    (
        web("ingress: [{}]") + web("ingress: [{}]", "twin"),
        "policy-shadowed",
        "",
        "default/p",
    ),
]


@pytest.mark.parametrize(
    ("text", "code", "path", "words"),
    FINDINGS,
    ids=[f"{entry[1]}-{index}" for index, entry in enumerate(FINDINGS)],
)
def test_a_doubtful_policy_has_one_piece_of_advice(
    text: str, code: str, path: str, words: str
) -> None:
    """It is at the field that causes it, and no command counts it as an error."""
    (item,) = advice_on(text)
    assert (item.code, format_path(item.path)) == (code, path)
    assert words in item.message
    assert code not in (*MISCONFIGURATIONS, *refused_codes(allow_undeclared=False))


@pytest.mark.parametrize(
    "text",
    [
        policy("{podSelector: {}}"),
        policy("{ingress: [{}]}"),
        policy("{podSelector: {}, ingress: [], egress: }"),
        policy("{podSelector: {}, egress: [{ports: []}], policyTypes: [Egress]}"),
        policy("{podSelector: {matchLabels: {statefulset.kubernetes.io/pod-name: db-0}}}"),
        web("ingress: [{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]"),
        web("egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: http}]}]"),
        web("egress: [{to: [{namespaceSelector: {}}]}]"),
        web("egress: [{ports: [{port: http}]}]"),
        web("ingress: [{ports: [{port: 81}]}]"),
        service(port=80, target=8080) + web("ingress: [{ports: [{port: 8080}]}]"),
        service(port=80, target=8080) + web("ingress: [{ports: [{port: 79, endPort: 8080}]}]"),
        service(port=80, target=8080, clusterIP="None") + web("ingress: [{ports: [{port: 80}]}]"),
        service(port=443, target=8080) + web("egress: [{ports: [{port: 443}]}]"),
        service(port=443, target=8080)
        + web(
            "egress: [{to: [{podSelector: {}}, {ipBlock: {cidr: 198.51.100.0/24}}], "
            "ports: [{port: 443}]}]"
        ),
        service(port=80, target=8080)
        + web("egress: [{to: [{namespaceSelector: {}}], ports: [{port: 80}]}]")
        + pod("other", container=", ports: [{containerPort: 80}]"),
    ],
)
def test_useful_policies_have_no_advice(text: str) -> None:
    """Pods of a workload that is scaled to zero count, and labels that only pods have."""
    assert not advice_on(text)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("ingress: [{ports: [{port: 80}]}]", "ingress: [{ports: [{port: 79}]}]"),
        ("ingress: [{}]", "ingress: [{ports: [{protocol: TCP}]}]"),
        ("ingress: [{ports: [{port: http}]}]", "ingress: [{ports: [{port: 8080}]}]"),
        ("ingress: [{}], policyTypes: [Ingress, Egress]", "ingress: [{}]"),
        ("egress: [{}], policyTypes: [Egress]", "ingress: [{}]"),
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]",
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]",
        ),
        (
            "ingress: [{from: [{podSelector: {}}]}]",
            "ingress: [{from: [{podSelector: {matchExpressions: "
            "[{key: app, operator: Exists}]}}]}]",
        ),
        (
            "ingress: [{from: [{podSelector: {}}]}]",
            "ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]",
        ),
    ],
)
def test_policies_that_differ_are_not_redundant(narrow: str, wide: str) -> None:
    """A policy is needed if it allows something, or isolates a direction, that others do not."""
    assert not [item for item in advice_on(web(narrow), web(wide, "other")) if item.name == "p"]


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.2.0.0/16}}]}]",
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]",
        ),
        (
            "ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]",
            "ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: "
            "[{key: app, operator: In, values: [db, web]}]}}]}]",
        ),
        (
            "egress: [{ports: [{port: 53, protocol: UDP}]}], policyTypes: [Ingress, Egress]",
            "egress: [{ports: [{protocol: UDP}, {port: 80}]}], policyTypes: [Egress, Ingress]",
        ),
    ],
)
def test_wider_policies_make_others_redundant(narrow: str, wide: str) -> None:
    """Selectors are compared as they are written, ranges and ports by their values."""
    (item,) = advice_on(web(narrow), web(wide, "other"))
    assert (item.code, item.name) == ("policy-shadowed", "p")
