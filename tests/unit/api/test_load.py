"""Documents → objects, and what is said of those that are none."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Service
from kubenetlab.api.decode import decode
from kubenetlab.api.kinds import writable
from kubenetlab.api.load import load
from kubenetlab.errors import ManifestError
from tests.clusters import deployment, loaded, pod, problems_of, replaced, service

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: web, image: nginx%s}\n"


def test_reads_a_list_and_keeps_what_it_does_not_model() -> None:
    """A List is its items; kinds that the lab does not model are kept and named once."""
    found = loaded(
        """
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
        - {apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}
        - {apiVersion: v1, kind: ServiceAccount, metadata: {name: b}}
        - {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}}
        """
    )
    assert [entry.title for entry in found.entries] == [
        "Namespace shop",
        "ServiceAccount default/a",
        "ServiceAccount default/b",
        "Gateway default/g",
    ]
    assert found.without_effect == {"ServiceAccount": ("a", "b")}


def test_null_counts_as_absent() -> None:
    """`creationTimestamp: null`, as kubectl writes it, is nothing."""
    found = loaded(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, creationTimestamp: null}\nspec: {ports: [{port: 80, name: null}], selector: null}"
    )
    assert isinstance(found.entries[0].object, Service)
    assert found.warnings == ()
    found = loaded(
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nname: null\nnodes: null\nnetworking: null"
    )
    assert found.config == ClusterConfig()


def test_reports_every_problem_of_every_document_at_once() -> None:
    """File, line, object, field path, what was wanted, what was found, the nearest known name."""
    problems = problems_of(
        """\
        apiVersion: v1
        kind: Service
        metadata: {name: web, namespace: shop}
        spec:
          ports:
          - port: "80"
            targetPort: true
            prot: TCP
          - protocol: tcp
            port: 70000
          selector: {app: 1}
        ---
        apiVersion: apps/v1
        kind: Deploymnt
        metadata: {name: x}
        ---
        apiVersion: extensions/v1beta1
        kind: Deployment
        metadata: {name: y}
        """
    )
    assert [str(problem) for problem in problems] == [
        'test.yaml:6  Service shop/web: spec.ports[0].port: expected a port number, found "80"',
        "test.yaml:6  Service shop/web: spec.ports[0].name: required when a Service has several ports",
        "test.yaml:7  Service shop/web: spec.ports[0].targetPort: expected a port number or a port name, found true (true/false)",
        "test.yaml:8  Service shop/web: spec.ports[0].prot: unknown field; did you mean port?",
        'test.yaml:9  Service shop/web: spec.ports[1].protocol: expected one of SCTP, TCP, UDP, found "tcp"; did you mean TCP?',
        "test.yaml:9  Service shop/web: spec.ports[1].name: required when a Service has several ports",
        "test.yaml:10  Service shop/web: spec.ports[1].port: expected a port number from 1 to 65535, found 70000",
        "test.yaml:11  Service shop/web: spec.selector.app: expected a string, found 1; put it in quotes",
        'test.yaml:14  Deploymnt default/x: kind: no matches for kind "Deploymnt" in version "apps/v1"\n              did you mean Deployment?',
        'test.yaml:18  Deployment default/y: kind: no matches for kind "Deployment" in version "extensions/v1beta1"\n'
        "              expected apiVersion apps/v1",
    ]


def test_an_unknown_field_is_a_warning_or_with_strict_an_error() -> None:
    """Without --strict the object is used without the field."""
    text = POD % ", imag: x"
    (problem,) = problems_of(text)
    assert (problem.is_warning, problem.message) == (True, "unknown field; did you mean image?")
    assert loaded(text).entries[0].object is not None
    assert not problems_of(text, strict=True)[0].is_warning


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ('kubenetlab.dev/ready: "no"', 'expected "true" or "false", found "no"'),
        ('kubenetlab.dev/real-commands: "yes"', 'expected "true" or "false", found "yes"'),
        (
            "kubenetlab.dev/pool: ''",
            "expected the name of a pool of networking.ipam.pools, found nothing",
        ),
        (
            "kubenetlab.dev/addresses: '10.244.1.7, nowhere'",
            'expected IP addresses, found "nowhere"',
        ),
    ],
)
def test_a_wrong_value_of_an_own_annotation_is_refused(annotation: str, message: str) -> None:
    """Also in a template; on what is no pod as well."""
    for text in (
        pod("a", meta=f", annotations: {{{annotation}}}"),
        service().replace("name: web}", f"name: web, annotations: {{{annotation}}}}}"),
    ):
        (problem,) = problems_of(text)
        assert (problem.is_warning, problem.message) == (False, message)


SPECIAL_ADDRESSES = [
    ("0.0.0.0", "may not be unspecified"),
    ("::", "may not be unspecified"),
    ("127.0.0.2", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("::1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("::ffff:127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("169.254.169.254", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    ("fe80::1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    ("224.0.0.251", "may not be in the link-local multicast range (224.0.0.0/24, ffx2::/16)"),
    ("ff02::1", "may not be in the link-local multicast range (224.0.0.0/24, ffx2::/16)"),
    ("ff12::1", "may not be in the link-local multicast range (224.0.0.0/24, ffx2::/16)"),
    ("239.1.1.1", ""),
    ("ff05::1", ""),
    ("192.0.2.7", ""),
    ("2001:db8::7", ""),
]
"""Address, and why neither an external IP nor an endpoint can have it; multicast beyond the link is allowed, as upstream."""


@pytest.mark.parametrize(("address", "fault"), SPECIAL_ADDRESSES)
def test_special_addresses_lead_to_no_service(address: str, fault: str) -> None:
    """As external IPs and as endpoints the same are refused, with the object, the line and the address."""
    family = "IPv6" if ":" in address else "IPv4"
    given = [
        (
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  ports: [{{port: 80}}]\n  externalIPs:\n  - '{address}'\n",
            "Service default/web: spec.externalIPs[0]",
            7,
        ),
        (
            f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web}}\naddressType: {family}\n"
            f"endpoints:\n- addresses: ['{address}']\n",
            "EndpointSlice default/web: endpoints[0].addresses[0]",
            6,
        ),
        (
            f"apiVersion: v1\nkind: Endpoints\nmetadata: {{name: web}}\nsubsets:\n- addresses:\n  - ip: '{address}'\n",
            "Endpoints default/web: subsets[0].addresses[0].ip",
            6,
        ),
    ]
    found = [[str(problem) for problem in problems_of(text)] for text, _, _ in given]
    expected = [
        [f"test.yaml:{line}  {place}: {fault}, found {address}"] if fault else []
        for _, place, line in given
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("address", "is_fine"),
    [("", True), ("0.0.0.0", True), ("172.18.0.2", True), ("fd00::2", True), ("localhost", False), ("172.18.0", False), ("fe80::1%eth0", False)],
)  # fmt: skip
def test_a_host_ip_is_an_address(address: str, is_fine: bool) -> None:
    """A name, a part of an address or one with a zone is refused where it stands."""
    text = POD % f", ports: [{{containerPort: 80, hostPort: 80, hostIP: '{address}'}}]"
    found = [str(problem) for problem in problems_of(text)]
    place = "test.yaml:6  Pod default/web: spec.containers[0].ports[0].hostIP"
    assert found == ([] if is_fine else [f'{place}: expected an IP address, found "{address}"'])


def test_an_annotation_without_effect_is_a_warning() -> None:
    """One of the lab's that it does not know, or that stands on something that is no pod; anybody else's is nobody's business."""
    (unknown,) = problems_of(
        pod("a", meta=', annotations: {kubenetlab.dev/raedy: "false", example.com/ready: "no"}')
    )
    assert (unknown.is_warning, unknown.path) == (
        True,
        "metadata.annotations[kubenetlab.dev/raedy]",
    )
    assert unknown.message == "unknown annotation; did you mean kubenetlab.dev/ready?"
    ready = ', annotations: {kubenetlab.dev/ready: "false"}'
    (misplaced,) = problems_of(deployment().replace("name: web}", f"name: web{ready}}}", 1))
    assert (misplaced.is_warning, misplaced.message) == (
        True,
        "only Pods have this annotation; here it has no effect",
    )
    assert misplaced.hints == ("in a workload, it belongs in spec.template.metadata",)
    assert (
        problems_of(
            deployment().replace("{app: web}}\n    spec", f"{{app: web}}{ready}}}\n    spec")
        )
        == []
    )
    assert not problems_of(pod("a", meta=", annotations: {kubenetlab.dev/x: y}"), strict=True)[
        0
    ].is_warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(POD.replace("name: web}\nspec", "name: Web_1}\nspec") % "", 'metadata.name: expected a DNS subdomain (RFC 1123', id="name"),
        pytest.param(service().replace("name: web}", "name: 1web}"), "metadata.name: expected a DNS label that begins with a letter (RFC 1035)", id="Service name"),
        pytest.param(replaced(deployment(), ("{app: web}}\n    spec", "{app: web}, annotations: {kubenetlab.dev/addresses: nowhere}}\n    spec")), 'spec.template.metadata.annotations[kubenetlab.dev/addresses]: expected IP addresses, found "nowhere"', id="addresses in a template"),
        pytest.param(POD % ", ports: [{containerPort: 0}]", "spec.containers[0].ports[0].containerPort: expected a port number from 1 to 65535, found 0", id="port"),
        pytest.param(POD % ", ports: [{containerPort: 1, name: THE_PORT}]", "spec.containers[0].ports[0].name: expected lower-case letters", id="port name"),
        pytest.param(POD % "} \n  - {name: web, image: x", 'spec.containers[1].name: "web" is already the name of containers[0]', id="two containers of one name"),
        pytest.param(POD.replace(", image: nginx%s", ""), "spec.containers[0].image: required, but missing", id="no image"),
        pytest.param(POD % ", readinessProbe: {periodSeconds: 1}", "spec.containers[0].readinessProbe: required: one of httpGet", id="probe that asks nothing"),
        pytest.param(deployment().replace("labels: {app: web}", "labels: {app: wep}"), "spec.template.metadata.labels: `selector` does not match template `labels`", id="selector"),
        pytest.param(deployment(restartPolicy="Never"), "spec.template.spec.restartPolicy: expected Always in a Deployment, found Never", id="restartPolicy"),
        pytest.param(service().replace("[{port: 80", "[{port: 80}, {port: 80"), "spec.ports[1].port: duplicate port 80/TCP", id="duplicate port"),
        pytest.param(service().replace("[{port: 80", "[{port: 81}, {port: 80"), "spec.ports[0].name: required when a Service has several ports", id="unnamed ports"),
        pytest.param(service(clusterIP="10.96.0.300"), 'spec.clusterIP: expected an IP address, "None" or nothing, found "10.96.0.300"', id="clusterIP"),
        pytest.param("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}\nspec: {containers: [{name: a, image: b}]}", "metadata.name: required, but missing", id="generateName"),
        pytest.param("apiVersion: v1\nkind: Pod\nspec: 3", "spec: expected a mapping, found 3", id="no mapping"),
        pytest.param("hello", ': expected an object with apiVersion and kind, found "hello"', id="no object"),
        pytest.param("kind: Pod", ": apiVersion required, but missing", id="no apiVersion"),
    ],
)  # fmt: skip
def test_refuses_what_kubernetes_refuses(text: str, message: str) -> None:
    """The message names the field and what it should be."""
    problems = problems_of(text)
    assert problems, "nothing was found wrong"
    assert any(message in f"{problem.path}: {problem.message}" for problem in problems), [
        str(problem) for problem in problems
    ]
    assert any(not problem.is_warning for problem in problems)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            "networking: {podSubnet: 10.96.0.0/16}",
            "networking.serviceSubnet: 10.96.0.0/16 overlaps the range of pods (networking.podSubnet: 10.96.0.0/16)",
        ),
        (
            "networking: {serviceSubnet: 172.18.0.0/24}",
            "networking.serviceSubnet: 172.18.0.0/24 overlaps the range of the nodes (172.18.0.0/16)",
        ),
        (
            "networking: {podSubnet: 10.244.0.0/23}",
            "networking.podSubnet: 10.244.0.0/23 holds 2 ranges of /24, one per node, for 3 nodes",
        ),
        (
            "networking: {podSubnet: nonsense}",
            'networking.podSubnet: expected a range such as 10.244.0.0/16, found "nonsense"',
        ),
        ("networking: {cni: flanel}", 'networking.cni: "flanel" is not known'),
        (
            "networking: {cni: {type: bridge, layot: x}}",
            "networking.cni.layot: unknown field; did you mean layout?",
        ),
        (
            "networking: {kubeProxyMode: nftable}",
            'networking.kubeProxyMode: "nftable" is not known; did you mean nftables?',
        ),
        ("networking: {podSubnet: []}", "networking.podSubnet: expected a string, found a list"),
        (
            "networking: {ipFamily: dual, podSubnet: 10.244.0.0/16}",
            "networking.podSubnet: expected one IPv4 range and one IPv6 range with ipFamily dual",
        ),
        (
            "networking: {ipFamily: ipv6, serviceSubnet: 10.96.0.0/16}",
            "networking.serviceSubnet: expected one IPv6 range with ipFamily ipv6",
        ),
        (
            "networking: {ipFamily: ipv6, podSubnet: 'fd00:10:244::/63'}",
            "networking.podSubnet: fd00:10:244::/63 holds 2 ranges of /64",
        ),
        (
            "networking: {ipFamily: dual, podSubnet: 'fd00:1::/56,10.244.0.0/16'}",
            "networking.serviceSubnet: expected the families in the order of podSubnet",
        ),
        (
            "networking: {ipFamily: ipv6, serviceSubnet: 'fd00:10:96::/64'}",
            "networking.serviceSubnet: expected a prefix length from 108 to 124, found 64",
        ),
        (
            "nodes: [{podCIDRs: [10.9.0.0/24]}]",
            "nodes[0].podCIDRs: expected a part of the pods' range 10.244.0.0/16, found 10.9.0.0/24",
        ),
        (
            "nodes: [{podCIDRs: [10.244.7.0/24]}, {role: worker, podCIDRs: [10.244.7.128/25]}]",
            "nodes[1].podCIDRs: 10.244.7.128/25 overlaps 10.244.7.0/24 of node control-plane",
        ),
        (
            "nodes: [{podCIDRs: [10.244.7.0/31]}]",
            "nodes[0].podCIDRs: expected room for pods, at least a /30, found 10.244.7.0/31",
        ),
        (
            "nodes: [{podCIDRs: [10.244.0.128/25]}, {role: worker}, {role: worker}]\nnetworking: {podSubnet: 10.244.0.0/22, nodeCIDRMaskSizeIPv4: 23}",
            "networking.podSubnet: 10.244.0.0/22 has room for 1 more ranges of /23, but 2 nodes need one",
        ),
        (
            "nodes: [{podCIDRs: [10.244.7.0/28]}]\nnetworking: {ipam: {pools: [{name: db, first: 64, last: 80}]}}",
            "nodes[0].podCIDRs: 10.244.7.0/28 is too small for pool db (64 to 80)",
        ),
        (
            "external: [{name: a, address: '2001:db8:51:100::7'}]",
            "external[0].address: expected an IPv4 address with ipFamily ipv4",
        ),
        (
            "external: [{name: a, address: '198.51.100.7,198.51.100.8'}]",
            "external[0].address: expected one address per family",
        ),
        (
            "nodes: [{role: worker, name: a}, {role: worker, name: a}]",
            'nodes[1].name: "a" is already the name of another node',
        ),
        (
            "nodes: [{role: master}]",
            'nodes[0].role: expected one of control-plane, worker, found "master"',
        ),
        (
            "external: [{name: c, address: 198.51.100.1}]",
            "external[0].address: expected a free address of 198.51.100.0/24",
        ),
        ("name: Demo", "name: expected a DNS label (RFC 1123"),
        ("name: 7", "name: expected a string, found 7"),
        ("nodes: {}", "nodes: expected a list, found a mapping"),
    ],
)
def test_refuses_a_cluster_that_cannot_be(cluster: str, message: str) -> None:
    """Ranges overlap, addresses are out of their range, modes are not known."""
    problems = problems_of(f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n{cluster}\n")
    assert any(message in f"{problem.path}: {problem.message}" for problem in problems), [
        str(problem) for problem in problems
    ]


def test_reads_a_kind_configuration_as_it_is() -> None:
    """What kind's users have works; without nodes it has one, as kind's own default."""
    found = loaded(
        """
        kind: Cluster
        apiVersion: kind.x-k8s.io/v1alpha4
        name: demo
        networking: {disableDefaultCNI: true, apiServerPort: 6443, podSubnet: 10.10.0.0/16}
        kubeadmConfigPatches: [x]
        containerdConfigPatches: [y]
        featureGates: {A: true}
        """
    )
    assert found.config is not None
    assert (found.config.name, found.config.node_names, found.config.networking.cni_mode) == (
        "demo",
        ("control-plane",),
        ("none", {}),
    )
    assert found.warnings == ()


def test_the_same_object_twice_is_a_warning_and_the_later_one_counts() -> None:
    """As kubectl applies it; but a second Cluster is a mistake."""
    (warning,) = problems_of(deployment() + deployment())
    assert (warning.is_warning, warning.message) == (
        True,
        "also defined at test.yaml:1; this definition replaces it",
    )
    cluster = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    assert [problem.message for problem in problems_of(f"{cluster}---\n{cluster}")] == [
        "a second Cluster; the first is at test.yaml:1"
    ]


def test_reads_folders_and_names_missing_files(tmp_path: Path) -> None:
    """A folder stands for the manifests in it, not below; what cannot be read is named with the rest."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a.yaml").write_text(deployment("one"))
    (tmp_path / "b" / "d.yaml").write_text(deployment("below"))
    (tmp_path / "c.json").write_text(
        '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "two"}}'
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    assert [entry.title for entry in load([str(tmp_path)]).entries] == [
        "Deployment default/one",
        "Namespace two",
    ]
    with pytest.raises(ManifestError) as caught:
        load([str(tmp_path / "missing.yaml"), str(tmp_path / "a.yaml")])
    assert [problem.message for problem in caught.value.problems] == [
        "cannot be read: No such file or directory"
    ]


WHOLE = yaml.safe_load_all(
    deployment()
    + service()
    + POD % ", ports: [{containerPort: 80}], readinessProbe: {httpGet: {port: 80}}"
)
DOCUMENTS = [document for document in WHOLE if document]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [here, *(path for step, item in inside for path in paths(item, (*here, step)))]


def with_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    items = value.items() if isinstance(value, dict) else enumerate(value)
    changed = {
        step: with_at(item, path[1:], new) if step == path[0] else item for step, item in items
    }
    return changed if isinstance(value, dict) else list(changed.values())


@given(st.data())
def test_any_mistake_is_told_and_the_rest_is_still_looked_at(data: st.DataObject) -> None:
    """Whatever stands wherever: an object, or findings and an object without them; never an exception."""
    document = data.draw(st.sampled_from(DOCUMENTS))
    fields = {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}
    broken = with_at(fields, data.draw(st.sampled_from(paths(fields)[1:])), data.draw(ANYTHING))
    type_ = writable(document)
    assert type_ is not None
    found = decode(broken, type_)
    assert (found.value is None) == any(not finding.is_unknown_field for finding in found.findings)
    assert isinstance(found.value if found.value is not None else found.repaired, type_)


def test_kinds_of_other_groups_are_others() -> None:
    """A PostgreSQL cluster is not the lab's, a Knative Service not Kubernetes'; the same name twice is no duplicate then."""
    found = loaded(
        """
        apiVersion: postgresql.cnpg.io/v1
        kind: Cluster
        metadata: {name: web}
        ---
        apiVersion: serving.knative.dev/v1
        kind: Service
        metadata: {name: web}
        ---
        apiVersion: v1
        kind: Service
        metadata: {name: web}
        spec: {ports: [{port: 80}]}
        """
    )
    assert found.without_effect == {
        "Cluster.postgresql.cnpg.io": ("web",),
        "Service.serving.knative.dev": ("web",),
    }
    assert found.config is None
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: List\napiVersion: v1\nitems: foo", "expected a list"),
        ("kind: Cluster\napiVersion: kubenetlab.dev/v1alpha1\nnodes: [{role: worker, name: router}]", "is reserved for a link of the lab"),
        ("kind: Cluster\napiVersion: kubenetlab.dev/v1alpha1\nexternal: [{name: br0, address: 198.51.100.9}]", "is reserved for a link of the lab"),
        ("kind: Cluster\napiVersion: kubenetlab.dev/v1alpha1\nnetworking: {podSubnet: 224.0.0.0/8}", "a range of unicast addresses"),
        ("kind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {type: NodePort, ports: [{port: 1, nodePort: 80}]}", "30000-32767"),
        ("kind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {ports: [{port: 1}], loadBalancerSourceRanges: [1.2.3.0/24]}", "when type is LoadBalancer"),
        ("kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {containers: [{name: a, image: ' a '}]}", "whitespace"),
        ('kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}], hostAliases: [{ip: 1.2.3.4, hostnames: ["a b"]}]}', "DNS subdomain"),
        ("kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}], tolerations: [{key: a, operator: Exists, tolerationSeconds: 3}]}", "expected NoExecute"),
        ("kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {name: a}\naddressType: IPv4\nendpoints: [{addresses: [169.254.1.1]}]\nports: []", "link-local"),
        ("kind: ReplicaSet\napiVersion: apps/v1\nmetadata: {name: a}\nspec: {replicas: 3000000000, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}}", "from 0 to 20000"),
    ],
)  # fmt: skip
def test_refuses_what_cannot_be(text: str, said: str) -> None:
    """By Kubernetes or by the lab, each with its own words."""
    assert any(said in problem.message for problem in problems_of(text) if not problem.is_warning)


def test_what_would_steer_a_terminal_is_shown() -> None:
    """Control characters of a manifest do not reach the screen."""
    (problem, *_) = problems_of(
        'kind: Pod\napiVersion: v1\nmetadata: {name: "a\\e[31m"}\nspec: {containers: [{name: a, image: a}]}'
    )
    assert "\x1b" not in str(problem)
    assert "\\x1b[31m" in str(problem)


SIMPLE_POD = pod("p").removesuffix("---\n")


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def problem_of(*names: Path | str) -> str:
    with pytest.raises(ManifestError) as caught:
        load([str(name) for name in names])
    return str(caught.value)


def test_what_is_no_file_is_not_read_in_a_folder(tmp_path: Path) -> None:
    """It is named, and the files beside it are looked at as well."""
    fifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(SIMPLE_POD.replace("containers", "contaners"))
    (tmp_path / "c.yaml").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "d.yaml"))
        found = problem_of(tmp_path)
    assert f"{tmp_path}/a.yaml  is a FIFO, not a file" in found
    assert f"{tmp_path}/c.yaml  is a device, not a file" in found
    assert f"{tmp_path}/d.yaml  is a socket, not a file" in found
    assert "spec.contaners" in found


def test_a_fifo_is_read_while_something_writes(tmp_path: Path) -> None:
    """As with `-f <(command)`; one into which nothing writes is not waited for."""
    path = fifo(tmp_path / "f")
    assert "it is a FIFO that no process writes to; start the writer first" in problem_of(path)
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as stream:

        def write() -> None:
            with stream:
                stream.write(SIMPLE_POD)

        thread = threading.Thread(target=write)
        thread.start()
        loaded_here = load([f"/dev/fd/{reading}"])
        thread.join()
    assert [entry.title for entry in loaded_here.entries] == ["Pod default/p"]


def test_other_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert "cannot be read: it is a socket, not a file" in problem_of(tmp_path / "s")
    assert "too large" in problem_of("/dev/zero")
    monkeypatch.setattr(sys, "stdin", None)
    assert "<stdin>  cannot be read: standard input is closed" in problem_of("-")


def test_a_files_name_may_be_no_text(tmp_path: Path) -> None:
    """The store takes only text: what stands for a byte that is none is replaced."""
    path = os.path.join(os.fsencode(tmp_path), b"\xff.yaml")
    Path(os.fsdecode(path)).write_text(SIMPLE_POD)
    (entry,) = load([os.fsdecode(path)]).entries
    assert entry.source.file.encode().endswith("\ufffd.yaml".encode())


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        (
            "labels: 5",
            "m.yaml:3  NetworkPolicy default/a: metadata.labels: expected a mapping, found 5",
        ),
        ("annotations: {b: 1}", "metadata.annotations.b: expected a string, found 1"),
    ],
)
def test_what_kept_objects_are_selected_by_is_checked(meta: str, said: str) -> None:
    """Labels and annotations of a kind that the lab does not model are texts, as Kubernetes wants them."""
    text = f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a, {meta}}}\n"
    with pytest.raises(ManifestError) as caught:
        loaded(text, file="m.yaml")
    assert said in str(caught.value)
