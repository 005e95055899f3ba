"""Admission: what the API server does with an object before it stores it."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from msgspec import structs

from kubenetlab.api.apps import RESTARTED_ANNOTATION, Deployment, ReplicaSet
from kubenetlab.api.core import Namespace, Service
from kubenetlab.api.manifests.load import load
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, DocumentSource
from kubenetlab.controllers.admission.admission import AdmissionResult, admit
from kubenetlab.controllers.allocation.addresses import cluster_ip_for, static_band
from kubenetlab.errors import ManifestError
from kubenetlab.lab.bootstrap import admission_requests
from tests.clusters import DUAL, NOW, applied, deployment, loaded, replaced, service, settled, store
from tests.unit.api.manifests.test_load import POD

ROOM_FOR_14 = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "networking: {serviceSubnet: 10.96.0.0/28}\n---\n"
)


def refusal(cluster: Cluster, text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        applied(cluster, text)
    return str(caught.value)


def the(cluster: Cluster, name: str = "web", namespace: str = "default") -> Service:
    result = cluster.get(Service, namespace, name)
    assert result is not None
    return result


def test_applying_the_same_documents_again_changes_nothing() -> None:
    """The store stays the same object and every outcome is `unchanged`."""
    text = deployment() + service() + POD % ""
    cluster = store(text)
    entries = loaded(text).entries
    again = admit(cluster, admission_requests(entries), NOW + 60)
    assert [outcome.action for outcome in again.outcomes] == ["unchanged"] * 3
    assert list(again.cluster.all(Service)) == list(cluster.all(Service))
    assert again.cluster.revision == cluster.revision


def test_a_missing_namespace_is_created() -> None:
    """The namespace is reported, so that a typing mistake is visible."""
    entries = loaded(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n"
        "spec: {containers: [{name: a, image: b}]}"
    ).entries
    admission = admit(store(), admission_requests(entries), NOW)
    assert admission.made_namespaces == ("shop",)
    namespace = admission.cluster.get(Namespace, "", "shop")
    assert namespace is not None
    assert namespace.labels == {"kubernetes.io/metadata.name": "shop"}


def test_a_namespace_may_come_after_its_objects() -> None:
    """No namespace without a document is reported, and it has the labels of its document."""
    entries = loaded(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n"
        "spec: {containers: [{name: a, image: b}]}\n---\n"
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: blue}}\n"
    ).entries
    admission = admit(store(), admission_requests(entries), NOW)
    assert admission.made_namespaces == ()
    assert [outcome.action for outcome in admission.outcomes] == ["created", "created"]
    namespace = admission.cluster.get(Namespace, "", "shop")
    assert namespace is not None
    assert namespace.labels == {"kubernetes.io/metadata.name": "shop", "team": "blue"}
    again = admit(admission.cluster, admission_requests(entries), NOW)
    assert [outcome.action for outcome in again.outcomes] == ["unchanged", "unchanged"]


def restarted(cluster: Cluster, at: str) -> Cluster:
    """Return the store after `rollout restart deployment web`."""
    web = cluster.get(Deployment, "default", "web")
    assert web is not None
    meta = structs.replace(web.spec.template.metadata, annotations={RESTARTED_ANNOTATION: at})
    template = structs.replace(web.spec.template, metadata=meta)
    return settled(
        cluster.with_changes(
            [structs.replace(web, spec=structs.replace(web.spec, template=template))]
        )
    )


def test_a_restart_outlives_the_next_apply() -> None:
    """The unchanged manifest replaces no pod again; a restart time in the manifest wins."""
    cluster = restarted(store(deployment()), "2023-11-14T22:13:20Z")
    again = applied(cluster, deployment())
    assert again.all(ReplicaSet) == cluster.all(ReplicaSet)
    web = applied(again, deployment(hostNetwork="true")).get(Deployment, "default", "web")
    assert web is not None
    assert web.spec.template.spec.host_network
    assert web.spec.template.metadata.annotations == {RESTARTED_ANNOTATION: "2023-11-14T22:13:20Z"}
    own = f"metadata: {{annotations: {{{RESTARTED_ANNOTATION}: now}}, labels: {{app: web}}}}"
    web = applied(again, replaced(deployment(), ("metadata: {labels: {app: web}}", own))).get(
        Deployment, "default", "web"
    )
    assert web is not None
    assert web.spec.template.metadata.annotations == {RESTARTED_ANNOTATION: "now"}


def test_one_rejected_object_rejects_the_request() -> None:
    """Nothing of the command is stored."""
    cluster = store()
    refusal(cluster, service("good") + service("bad", clusterIP="192.0.2.1"))
    assert cluster.get(Service, "default", "good") is None


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        pytest.param(
            service(),
            service(clusterIP="10.96.7.7"),
            "spec.clusterIP: field is immutable",
            id="clusterIP",
        ),
        pytest.param(
            deployment(),
            deployment().replace("app: web", "app: other"),
            "spec.selector: field is immutable",
            id="selector",
        ),
        pytest.param(
            POD % "",
            POD % ", ports: [{containerPort: 1}]",
            "spec: a pod's spec is immutable but for its images",
            id="pod",
        ),
        pytest.param(
            "",
            service(clusterIP="192.0.2.1"),
            (
                "the provided IP (192.0.2.1) is not in the valid range. "
                "The range of valid IPs is 10.96.0.0/16"
            ),
            id="out of range",
        ),
        pytest.param(
            "",
            service(clusterIP="10.96.0.10"),
            "provided IP is already allocated: 10.96.0.10 belongs to Service kube-system/kube-dns",
            id="taken",
        ),
        pytest.param(
            "",
            service(ipFamilies="[IPv6]"),
            'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster',
            id="family",
        ),
        pytest.param(
            "",
            service(ipFamilyPolicy="RequireDualStack"),
            "this cluster is not configured for dual-stack services",
            id="dual stack",
        ),
        pytest.param(
            "",
            (
                "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
                "networking: {podSubnet: 10.10.0.0/16}"
            ),
            "networking.podSubnet: cannot change while the lab is up; it is 10.244.0.0/16",
            id="ranges",
        ),
        pytest.param(
            "",
            (
                "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
                "networking: {serviceSubnet: 10.97.0.0/16}"
            ),
            "networking.serviceSubnet: cannot change while the lab is up; it is 10.96.0.0/16",
            id="Service range",
        ),
    ],
)
def test_an_invalid_update_is_rejected_with_the_reason(
    before: str, after: str, message: str
) -> None:
    """Immutable fields and unavailable addresses are reported with file and line."""
    report = refusal(store(before), after)
    assert message in report
    assert report.startswith("test.yaml:")


def test_a_pods_image_may_change() -> None:
    """The image is the only part of a pod's container that can be updated in place."""
    cluster = applied(store(POD % ""), POD.replace("nginx", "httpd") % "")
    assert [pod.spec.containers[0].image for pod in cluster.select("default", {})] == ["httpd"]


def test_apply_keeps_replicas_that_the_document_does_not_set() -> None:
    """A scaled Deployment keeps its replicas unless the manifest sets them."""
    without = deployment(replicas=0).replace("  replicas: 0\n", "")
    cluster = applied(store(without), without.replace("agnhost", "nginx"))
    deployment_ = cluster.get(Deployment, "default", "web")
    assert deployment_ is not None
    assert deployment_.spec.replicas == 1
    scaled = applied(store(deployment(replicas=5)), deployment(replicas=2))
    assert (
        len(scaled.select("default", {"app": "web"})) == 5 - 3
        or len([pod for pod in scaled.select("default", {}) if not pod.is_terminating]) == 2
    )


def test_services_get_addresses_above_the_static_band_and_keep_them() -> None:
    """The same Service gets the same address in every lab; a requested address is assigned."""
    first, second = store(service() + service("other")), store(service("other") + service())
    assert the(first).spec.cluster_ip == the(second).spec.cluster_ip
    assert the(store(service(clusterIP="10.96.0.77"))).spec.cluster_ip == "10.96.0.77"
    network = first.config.networking.service_networks[0]
    assert static_band(network) == 256
    offset = int.from_bytes(network.network_address.packed)
    assert all(
        int.from_bytes(bytes(map(int, the(cluster).spec.cluster_ip.split(".")))) - offset > 256
        for cluster in (first, second)
    )


def test_a_full_service_range_is_reported() -> None:
    """A range of fourteen addresses with two taken has room for twelve more Services."""
    many = "".join(service(f"s{number}") for number in range(13))
    with pytest.raises(
        ManifestError,
        match=r"s1\d: spec.clusterIP: no address is left in the Service range 10.96.0.0/28",
    ):
        store(ROOM_FOR_14 + many)


def test_the_static_band_is_used_only_when_the_rest_is_full() -> None:
    """KEP-3070: a requested address is therefore unlikely to be taken."""
    network = store().config.networking.service_networks[0]
    taken: set[str] = set()
    assert isinstance(network, IPv4Network)
    small = next(network.subnets(new_prefix=24))
    for number in range(small.num_addresses - 2):
        address = cluster_ip_for(small, f"default/s{number}", taken)
        assert address is not None
        assert address not in taken
        taken.add(address)
        if number < small.num_addresses - 2 - static_band(small):
            assert int(address.rpartition(".")[2]) > static_band(small)
    assert cluster_ip_for(small, "default/one-more", taken) is None


def test_headless_and_external_name_services_have_no_address() -> None:
    """Neither type gets a virtual address."""
    headless = the(store(service(clusterIP="None")))
    assert (headless.is_headless, headless.cluster_ips) == (True, ())
    external = the(
        store(
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
            "spec: {type: ExternalName, externalName: www.example.com}"
        )
    )
    assert external.spec.cluster_ip == ""


def test_an_equal_object_without_resource_version_is_no_change() -> None:
    """A controller that computes an object again does not know its resource version."""
    cluster = store(deployment())
    pod_ = cluster.all(Pod)[0]
    again = structs.replace(pod_, metadata=structs.replace(pod_.metadata, resource_version=""))
    assert cluster.with_changes([again]) is cluster
    assert (
        cluster.with_changes(
            [structs.replace(again, spec=structs.replace(again.spec, node_name="x"))]
        )
        is not cluster
    )


def test_single_stack_releases_the_second_address() -> None:
    """This holds even if the document still names both families."""
    both = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec: {ipFamilyPolicy: %s, ipFamilies: [IPv6, IPv4], selector: {app: "
        "web}, ports: [{port: 80}]}\n"
    )
    before = the(store(DUAL + both % "RequireDualStack"))
    after = the(applied(store(DUAL + both % "RequireDualStack"), both % "SingleStack"))
    assert len(before.cluster_ips) == 2
    assert (after.spec.ip_families, after.cluster_ips) == (("IPv6",), before.cluster_ips[:1])


def test_a_document_is_stored_with_its_file_and_line(tmp_path: Path) -> None:
    """Later reports name them; a changed line alone changes no object."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"# two objects\n---\n{deployment()}# a Service\n\n{service()}")
    second.write_text(service().removeprefix("---\n"))

    def applied_from(file: Path, cluster: Cluster) -> AdmissionResult:
        return admit(cluster, admission_requests(load([str(file)]).entries), NOW)

    cluster = applied_from(first, store()).cluster
    line = (
        first.read_text().splitlines().index("kind: Service")
    )  # of apiVersion, the line before, counted from 1
    assert cluster.source_of(the(cluster)) == DocumentSource(str(first), line)
    admission = applied_from(second, cluster)
    assert admission.cluster.source_of(the(cluster)) == DocumentSource(str(second), 1)
    assert [outcome.action for outcome in admission.outcomes] == ["unchanged"]
    assert admission.cluster.revision == cluster.revision
