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
