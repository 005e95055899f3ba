"""Validation of objects: invalid values are rejected with the field and the expected value."""

from __future__ import annotations

import pytest

from kubenetlab.errors import ManifestError
from tests.clusters import deployment, loaded, pod, problems_of, replaced, service
from tests.unit.api.manifests.test_load import POD

CLUSTER = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"


def assert_rejected(text: str, message: str) -> None:
    """Assert that one of the errors of a manifest, with its path, contains a message."""
    errors = [
        f"{problem.path}: {problem.message}"
        for problem in problems_of(text)
        if not problem.is_warning
    ]
    assert any(message in error for error in errors), errors


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
            "kubenetlab.dev/mac: '01:58:0a:f4:01:4d'",
            'expected a unicast MAC address such as "0a:58:0a:f4:01:4d", found "01:58:0a:f4:01:4d"',
        ),
        (
            "kubenetlab.dev/addresses: '10.244.1.7, nowhere'",
            'expected IP addresses, found "nowhere"',
        ),
    ],
)
def test_an_invalid_value_of_a_kubenetlab_annotation_is_rejected(
    annotation: str, message: str
) -> None:
    """It is an error on any kind of object."""
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
"""Address, and the reason why it cannot be an external IP or endpoint.

Multicast beyond the link is allowed, as upstream.
"""


@pytest.mark.parametrize(("address", "fault"), SPECIAL_ADDRESSES)
def test_special_addresses_cannot_be_external_ips_or_endpoints(address: str, fault: str) -> None:
    """The problem has the object, the line and the address."""
    family = "IPv6" if ":" in address else "IPv4"
    given = [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  ports: [{port: "
            f"80}}]\n  externalIPs:\n  - '{address}'\n",
            "Service default/web: spec.externalIPs[0]",
            7,
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web}\n"
            f"addressType: {family}\n"
            f"endpoints:\n- addresses: ['{address}']\n",
            "EndpointSlice default/web: endpoints[0].addresses[0]",
            6,
        ),
        (
            "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets:\n- addresses:\n"
            f"  - ip: '{address}'\n",
            "Endpoints default/web: subsets[0].addresses[0].ip",
            6,
        ),
    ]
    problems = [[str(problem) for problem in problems_of(text)] for text, _, _ in given]
    expected = [
        [f"test.yaml:{line}  {place}: {fault}, found {address}"] if fault else []
        for _, place, line in given
    ]
    assert problems == expected


@pytest.mark.parametrize(
    ("address", "is_fine"),
    [
        ("", True),
        ("0.0.0.0", True),
        ("172.18.0.2", True),
        ("fd00::2", True),
        ("localhost", False),
        ("172.18.0", False),
        ("fe80::1%eth0", False),
    ],
)
def test_a_host_ip_must_be_an_address(address: str, is_fine: bool) -> None:
    """A name, a part of an address and an address with a zone are rejected."""
    text = POD % f", ports: [{{containerPort: 80, hostPort: 80, hostIP: '{address}'}}]"
    problems = [str(problem) for problem in problems_of(text)]
    place = "test.yaml:6  Pod default/web: spec.containers[0].ports[0].hostIP"
    assert problems == ([] if is_fine else [f'{place}: expected an IP address, found "{address}"'])


def test_an_annotation_without_effect_is_a_warning() -> None:
    """This is an unknown annotation of the lab, or one on the wrong kind of object.

    Annotations of other projects are ignored.
    """
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
        pytest.param(
            POD.replace("name: web}\nspec", "name: Web_1}\nspec") % "",
            "metadata.name: expected a DNS subdomain (RFC 1123",
            id="name",
        ),
        pytest.param(
            service().replace("name: web}", "name: 1web}"),
            "metadata.name: expected a DNS label that begins with a letter (RFC 1035)",
            id="Service name",
        ),
        pytest.param(
            replaced(
                deployment(),
                (
                    "{app: web}}\n    spec",
                    "{app: web}, annotations: {kubenetlab.dev/addresses: nowhere}}\n    spec",
                ),
            ),
            "spec.template.metadata.annotations[kubenetlab.dev/addresses]: expected IP "
            'addresses, found "nowhere"',
            id="addresses in a template",
        ),
        pytest.param(
            POD % ", ports: [{containerPort: 0}]",
            "spec.containers[0].ports[0].containerPort: expected a port number from 1 to "
            "65535, found 0",
            id="port",
        ),
        pytest.param(
            POD % ", ports: [{containerPort: 1, name: THE_PORT}]",
            "spec.containers[0].ports[0].name: expected lower-case letters",
            id="port name",
        ),
        pytest.param(
            POD % "} \n  - {name: web, image: x",
            'spec.containers[1].name: "web" is already the name of containers[0]',
            id="two containers of one name",
        ),
        pytest.param(
            POD.replace(", image: nginx%s", ""),
            "spec.containers[0].image: required, but missing",
            id="no image",
        ),
        pytest.param(
            POD % ", readinessProbe: {periodSeconds: 1}",
            "spec.containers[0].readinessProbe: required: one of httpGet",
            id="probe that asks nothing",
        ),
        pytest.param(
            deployment().replace("labels: {app: web}", "labels: {app: wep}"),
            "spec.template.metadata.labels: `selector` does not match template `labels`",
            id="selector",
        ),
        pytest.param(
            deployment(restartPolicy="Never"),
            "spec.template.spec.restartPolicy: expected Always in a Deployment, found Never",
            id="restartPolicy",
        ),
        pytest.param(
            service().replace("[{port: 80", "[{port: 80}, {port: 80"),
            "spec.ports[1].port: duplicate port 80/TCP",
            id="duplicate port",
        ),
        pytest.param(
            service().replace("[{port: 80", "[{port: 81}, {port: 80"),
            "spec.ports[0].name: required when a Service has several ports",
            id="unnamed ports",
        ),
        pytest.param(
            service(clusterIP="10.96.0.300"),
            'spec.clusterIP: expected an IP address, "None" or nothing, found "10.96.0.300"',
            id="clusterIP",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}\nspec: {containers: "
            "[{name: a, image: b}]}",
            "metadata.name: required, but missing",
            id="generateName",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nspec: 3",
            "spec: expected a mapping, found 3",
            id="no mapping",
        ),
        pytest.param(
            "hello", ': expected an object with apiVersion and kind, found "hello"', id="no object"
        ),
        pytest.param("kind: Pod", ": apiVersion required, but missing", id="no apiVersion"),
        pytest.param("kind: List\napiVersion: v1\nitems: foo", "expected a list", id="items"),
        pytest.param(
            service(type="NodePort").replace("port: 80", "port: 1, nodePort: 80"),
            "30000-32767",
            id="nodePort",
        ),
        pytest.param(
            service(loadBalancerSourceRanges="[1.2.3.0/24]"),
            "when type is LoadBalancer",
            id="loadBalancerSourceRanges",
        ),
        pytest.param(POD.replace("image: nginx%s", "image: ' a '"), "whitespace", id="image"),
        pytest.param(
            pod("a", spec=', hostAliases: [{ip: 1.2.3.4, hostnames: ["a b"]}]'),
            "DNS subdomain",
            id="hostAliases",
        ),
        pytest.param(
            pod("a", spec=", tolerations: [{key: a, operator: Exists, tolerationSeconds: 3}]"),
            "expected NoExecute",
            id="tolerationSeconds",
        ),
        pytest.param(
            "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {name: a}\n"
            "addressType: IPv4\nendpoints: [{addresses: [169.254.1.1]}]\nports: []",
            "link-local",
            id="link-local endpoint",
        ),
        pytest.param(
            deployment(replicas=3_000_000_000).replace("kind: Deployment", "kind: ReplicaSet"),
            "from 0 to 20000",
            id="replicas",
        ),
    ],
)
def test_invalid_objects_are_rejected(text: str, message: str) -> None:
    """Kubernetes or the lab has a rule against each; the message names the expected value."""
    assert_rejected(text, message)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            "networking: {podSubnet: 10.96.0.0/16}",
            "networking.serviceSubnet: 10.96.0.0/16 overlaps the range of pods "
            "(networking.podSubnet: 10.96.0.0/16)",
        ),
        (
            "networking: {serviceSubnet: 172.18.0.0/24}",
            "networking.serviceSubnet: 172.18.0.0/24 overlaps the range of the nodes "
            "(172.18.0.0/16)",
        ),
        (
            "networking: {podSubnet: 10.244.0.0/23}",
            "networking.podSubnet: expected a range of /24 for each of 3 nodes; "
            "10.244.0.0/23 has 2",
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
            "networking.podSubnet: expected a range of /64 for each of 3 nodes; "
            "fd00:10:244::/63 has 2",
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
            "nodes[0].podCIDRs: expected a part of the pods' range 10.244.0.0/16, found "
            "10.9.0.0/24",
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
            "nodes: [{podCIDRs: [10.244.0.128/25]}, {role: worker}, {role: worker}]\n"
            "networking: {podSubnet: 10.244.0.0/22, nodeCIDRMaskSizeIPv4: 23}",
            "networking.podSubnet: 10.244.0.0/22 has room for 1 more ranges of /23, but 2 "
            "nodes need one",
        ),
        (
            "nodes: [{podCIDRs: [10.244.7.0/28]}]\nnetworking: {ipam: {pools: [{name: db, "
            "first: 64, last: 80}]}}",
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
        ("nodes: [{role: worker, name: router}]", "is reserved for a link of the lab"),
        ("external: [{name: br0, address: 198.51.100.9}]", "is reserved for a link of the lab"),
        ("networking: {podSubnet: 224.0.0.0/8}", "a range of unicast addresses"),
    ],
)
def test_an_invalid_cluster_document_is_rejected(cluster: str, message: str) -> None:
    """Ranges must not overlap, addresses must be in range, and modes must be known."""
    assert_rejected(f"{CLUSTER}{cluster}\n", message)


@pytest.mark.parametrize("cni", ["bridge", "calico", "weave", "cilium"])
@pytest.mark.parametrize(
    ("subnet", "advice"),
    [
        (
            "10.244.0.0/24",
            "set podSubnet to a /22 or larger, or networking.nodeCIDRMaskSizeIPv4 to 26 or more",
        ),
        (
            "10.244.0.0/27",
            "set podSubnet to a /22 or larger, or networking.nodeCIDRMaskSizeIPv4 to 29 or more",
        ),
        ("10.244.0.0/29", "set podSubnet to a /22 or larger"),
    ],
)
def test_a_range_too_small_for_the_nodes_is_explained(cni: str, subnet: str, advice: str) -> None:
    """The hint says which prefix lengths fit three nodes; with them, the document is valid."""
    text = f"{CLUSTER}networking: {{cni: {cni}, podSubnet: {subnet}%s}}\n"
    (problem,) = problems_of(text % "")
    assert problem.path == "networking.podSubnet"
    assert problem.hints == (advice,)
    if " or networking" in advice:
        length = advice.rpartition(" to ")[2].partition(" ")[0]
        assert not problems_of(text % f", nodeCIDRMaskSizeIPv4: {length}")
    assert not problems_of(f"{CLUSTER}networking: {{cni: {cni}, podSubnet: 10.244.0.0/22}}\n")


def test_all_problems_of_a_mode_are_in_one_report() -> None:
    """An invalid option does not hide those that contradict the rest of the document."""
    cni = "{type: calico, blockSize: 40, bakend: x, routeReflectors: [wroker], peers: [{address: y"
    problems = problems_of(f"{CLUSTER}networking: {{cni: {cni}, asNumber: 1}}]}}}}\n")
    assert {problem.path for problem in problems} == {
        "networking.cni.blockSize",
        "networking.cni.bakend",
        "networking.cni.peers[0].address",
        "networking.cni.routeReflectors[0]",
    }


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (
            "labels: 5",
            "m.yaml:3  NetworkPolicy default/a: metadata.labels: expected a mapping, found 5",
        ),
        ("annotations: {b: 1}", "metadata.annotations.b: expected a string, found 1"),
    ],
)
def test_labels_and_annotations_of_unmodelled_kinds_are_validated(meta: str, message: str) -> None:
    """Their values must be strings, as in Kubernetes."""
    text = f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a, {meta}}}\n"
    with pytest.raises(ManifestError) as caught:
        loaded(text, file="m.yaml")
    assert message in str(caught.value)
