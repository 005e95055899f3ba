"""Changes of a running lab: apply, scale and delete; and that nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import replaced
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for
from tests.labs.web_lab import MANIFEST, kernel_state, rule_generations, web_answers


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


def test_applying_the_same_files_again_writes_nothing(running: Lab) -> None:
    """No link, address, route, process or rule is touched: the kernel's counters do not change."""
    store = running.directory / "store.json"
    before, generation, saved = (
        kernel_state(running),
        rule_generations(running),
        store.stat().st_mtime_ns,
    )
    result = running.up(MANIFEST)
    assert [line.split()[-1] for line in result.out.splitlines()[:-1]] == ["unchanged"] * 3
    assert running.apply(MANIFEST).out.count("unchanged") == 3
    assert running.run("plan", "-f", "-", stdin=MANIFEST).out.strip() == "nothing to do"
    assert kernel_state(running) == before
    assert rule_generations(running) == generation
    assert store.stat().st_mtime_ns == saved


def test_a_deployment_can_be_scaled_up_and_down(running: Lab) -> None:
    """New pods answer through the Service; the others keep their addresses.

    Deleted pods leave nothing behind, and their addresses are not reused at once.
    """
    before = {pod["name"]: (pod["pid"], pod["addresses"]) for pod in running.pods("web")}
    assert "scaled from 4 to 7" in running.run("scale", "deployment", "web", "--replicas", "7").out
    wait_for(lambda: sum(pod["ready"] for pod in running.pods("web")) == 7, "seven pods")
    wait_for(lambda: len(answering(running)) == 7, "seven pods to answer")
    scaled = {pod["name"]: (pod["pid"], pod["addresses"]) for pod in running.pods("web")}
    assert before.items() <= scaled.items()
    running.run("scale", "deploy/web", "deployment/web", "--replicas", "2")
    wait_for(lambda: len(running.pods("web")) == 2, "two pods")
    assert len(answering(running)) == 2
    assert running.run("diff").status == 0
    links = running.inside(
        running.place("nodes", "worker"), "ip", "-o", "link", "show", "master", "cbr0"
    ).splitlines()
    assert len(links) == sum(
        pod["node"] == "worker" and not pod["host_network"] for pod in running.inspected["pods"]
    )
    running.run("scale", "deployment", "web", "--replicas", "4")
    wait_for(lambda: sum(pod["ready"] for pod in running.pods("web")) == 4, "four pods")
    former_addresses = {address for _, (address,) in scaled.values()}
    new_addresses = [
        pod["addresses"][0] for pod in running.pods("web") if pod["name"] not in scaled
    ]
    assert new_addresses
    assert not former_addresses & set(new_addresses)


def answering(lab: Lab) -> set[str]:
    """Return the pods that answer through the Service web."""
    address = lab.service("web")["cluster_ips"][0]
    answers = lab.ask(lab.pod("client"), *[("TCP", address, 80)] * 100)
    assert all(answer.server for answer in answers)
    return {answer.server for answer in answers}


def test_a_deleted_pod_is_replaced(running: Lab) -> None:
    """The replacement has a new name and address; the Service never fails meanwhile."""
    pod = running.pod("web")
    result = running.run("delete", "pod", pod["name"])
    assert f"Pod default/{pod['name']} deleted" in result.out
    wait_for(lambda: sum(current["ready"] for current in running.pods("web")) == 4, "its successor")
    assert pod["name"] not in [current["name"] for current in running.pods("web")]
    assert pod["addresses"] not in [current["addresses"] for current in running.pods("web")]
    assert web_answers(running)


def test_a_changed_template_replaces_the_pods(running: Lab) -> None:
    """A new ReplicaSet creates the pods; the Service follows without a gap."""
    old = {pod["name"] for pod in running.pods("web")}
    running.apply(
        replaced(
            MANIFEST,
            (
                "        args: [netexec]\n",
                "        args: [netexec]\n        env: [{name: A, value: b}]\n",
            ),
        )
    )
    wait_for(lambda: not old & {pod["name"] for pod in running.pods("web")}, "the old pods to go")
    assert len(answering(running)) == 4


def test_a_changed_selector_moves_a_service_to_other_pods(running: Lab) -> None:
    """Its address stays and its endpoints change, forth and back."""
    before = running.service("web")
    running.apply(
        replaced(MANIFEST, ("spec: {selector: {app: web}", "spec: {selector: {app: nobody}"))
    )
    wait_for(lambda: not running.service("web")["endpoints"], "no endpoints")
    target = ("TCP", before["cluster_ips"][0], 80)
    wait_for(lambda: running.ask(running.pod("client"), target)[0].error == "refused", "a refusal")
    running.apply(MANIFEST)
    wait_for(lambda: web_answers(running), "the pods to answer again")
    assert running.service("web")["cluster_ips"] == before["cluster_ips"]


def test_deleted_objects_no_longer_exist(running: Lab) -> None:
    """A deleted Service's address no longer answers.

    `delete -f` deletes all objects of the file. Deleting a missing object is an error.
    """
    extra = replaced(MANIFEST, ("name: web", "name: extra"), ("app: web", "app: extra")).partition(
        "---\n"
    )[2]
    running.apply(extra)
    address = running.service("extra")["cluster_ips"][0]
    assert running.ask(running.pod("client"), ("TCP", address, 80))[0].server.startswith("extra-")
    running.run("delete", "-f", "-", stdin=extra)
    assert not [pod for pod in running.inspected["pods"] if pod["name"].startswith("extra")]
    assert running.ask(running.pod("client"), ("TCP", address, 80))[0].error
    assert (
        "not found: Service default/extra"
        in running.run("delete", "service", "extra", status=1).err
    )


def test_a_rejected_apply_changes_nothing(running: Lab) -> None:
    """Immutable fields and an allocated address are rejected.

    The report has all problems, with file, line and Kubernetes' messages.
    """
    before = kernel_state(running)
    wrong = (
        replaced(
            MANIFEST,
            ("matchLabels: {app: web}", "matchLabels: {app: wib}"),
            ("labels: {app: web}", "labels: {app: wib}"),
            ("spec: {selector: {app: web}", "spec: {clusterIP: 10.96.99.99, selector: {app: web}"),
        )
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: late}, "
        "spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}\n"
    )
    errors = running.apply(wrong, status=2).err
    assert "Deployment default/web: spec.selector: field is immutable" in errors
    assert "Service default/web: spec.clusterIP" in errors
    assert "Service default/late: spec.clusterIP" in errors
    assert errors.count("<stdin>:") >= 3
    assert kernel_state(running) == before
    assert not [service for service in running.inspected["services"] if service["name"] == "late"]


def test_the_cni_mode_of_running_pods_cannot_be_removed(lab: Lab) -> None:
    """A change from bridge to none in a running lab is rejected with a reason."""
    lab.up(MANIFEST)
    result = lab.run("up", "--cni", "none", status=2)
    assert "networking.cni" in result.err
    assert web_answers(lab)


def test_a_pod_without_a_free_address_waits_for_one(lab: Lab) -> None:
    """On one node with a /24, the 254th pod waits for an address, with an event.

    It gets one when another pod is deleted.
    """
    many = (
        "{apiVersion: kubenetlab.dev/v1alpha1, kind: Cluster, nodes: [{role: control-plane}], "
        "networking: {podSubnet: 10.244.0.0/24}}\n---\n" + MANIFEST
    )
    lab.up(many)
    lab.run("scale", "deployment", "web", "--replicas", "252")
    wait_for(lambda: sum(pod["ready"] for pod in lab.pods("web")) == 250, "250 pods")
    waiting = [pod for pod in lab.pods("web") if not pod["ready"]]
    assert len(waiting) == 2
    output = lab.run("describe", "pod", waiting[0]["name"]).out
    assert "no IP addresses available in range set" in output
    lab.run("scale", "deployment", "web", "--replicas", "240")
    wait_for(
        lambda: len(lab.pods("web")) == 240 and all(pod["ready"] for pod in lab.pods("web")),
        "240 pods",
    )


def test_a_folder_with_yaml_and_json_can_be_applied(lab: Lab, tmp_path: Path) -> None:
    """The files are read in order, YAML and JSON."""
    documents = MANIFEST.split("---\n")
    (tmp_path / "1-client.yaml").write_text(documents[0])
    (tmp_path / "2-web.yml").write_text(documents[1])
    (tmp_path / "3-service.json").write_text(
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service",'
        ' "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},'
        ' "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}]}'
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    lab.run("up", "-f", str(tmp_path))
    assert web_answers(lab)


def test_objects_of_unmodelled_kinds_can_be_deleted(running: Lab) -> None:
    """They are deleted by file and by name; both at once are rejected."""
    claim = (
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: disk}\n"
        "spec: {accessModes: [ReadWriteOnce]}\n"
    )
    running.apply(claim)
    assert "disk" in running.run("get", "persistentvolumeclaims").out
    assert (
        running.run("delete", "-f", "-", stdin=claim).out == "PersistentVolumeClaim disk deleted\n"
    )
    running.apply(claim)
    assert (
        running.run("delete", "persistentvolumeclaim", "disk").out
        == "PersistentVolumeClaim disk deleted\n"
    )
    assert (
        "not found: PersistentVolumeClaim disk"
        in running.run("delete", "-f", "-", stdin=claim, status=1).err
    )
    assert (
        "names or manifests, not both"
        in running.run("delete", "pod", "client", "-f", "-", stdin=claim, status=2).err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("namespace", "kube-system"),
            'namespaces "kube-system" is forbidden: this namespace may not be deleted',
        ),
        (("node", "worker"), "Node worker comes from the Cluster document"),
    ],
)
def test_namespaces_of_the_system_and_nodes_of_the_cluster_document_cannot_be_deleted(
    running: Lab, words: tuple[str, ...], message: str
) -> None:
    """The message is Kubernetes' own, or names what to do instead."""
    assert message in running.run("delete", *words, status=1).err
    assert running.run("get", *words).status == 0


def test_controllers_replace_their_deleted_objects(running: Lab) -> None:
    """A deleted ReplicaSet and a deleted EndpointSlice are replaced.

    The ReplicaSet gets new pods. The API server's Service is restored, too.
    """
    (replica_set,) = [
        item["metadata"]["name"]
        for item in running.get("replicasets")["items"]
        if item["status"]["replicas"] == 4
    ]
    before = {pod["name"]: pod["pid"] for pod in running.pods("web")}
    running.run("delete", "replicaset", replica_set)
    wait_for(
        lambda: len(running.pods("web")) == 4 and all(pod["ready"] for pod in running.pods("web")),
        "new pods",
    )
    assert not before.items() & {pod["name"]: pod["pid"] for pod in running.pods("web")}.items()
    (endpoint_slice,) = [
        item["metadata"]["name"]
        for item in running.get("endpointslices")["items"]
        if item["metadata"]["name"].startswith("web")
    ]
    running.run("delete", "endpointslice", endpoint_slice)
    wait_for(lambda: len(answering(running)) == 4, "four pods to answer")
    running.run("delete", "service", "kubernetes")
    assert running.service("kubernetes")["cluster_ips"] == ["10.96.0.1"]


def test_a_changed_image_restarts_its_container(running: Lab) -> None:
    """The sandbox and the address stay; the restart is counted and reported, as by a kubelet."""
    image = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: shape}\n"
        "spec: {containers: [{name: main, image: nginx}]}\n"
    )
    running.apply(image)
    before = running.pod("shape")
    running.apply(replaced(image, ("image: nginx", "image: example.com/other:1")))
    wait_for(
        lambda: (
            running.pod("shape")["containers"][0]["program"] == "default"
            and running.pod("shape")["ready"]
        ),
        "the other program",
    )
    after = running.pod("shape")
    assert (after["pid"], after["addresses"]) == (before["pid"], before["addresses"])
    (status,) = running.get("pod", "shape")["status"]["containerStatuses"]
    assert status["restartCount"] == 1
    assert "definition changed, will be restarted" in running.run("describe", "pod", "shape").out


def test_label_selectors_work_like_those_of_kubectl(running: Lab) -> None:
    """Equality, sets and existence are supported; invalid selectors are rejected."""
    names = {pod["name"] for pod in running.pods("web")}

    def selected(selector: str) -> set[str]:
        return {item["metadata"]["name"] for item in running.get("pods", "-l", selector)["items"]}

    assert selected("app=web") == selected("app in (web, wob)") == selected("app==web") == names
    assert "client" in selected("!app")
    assert not names & selected("app!=web")
    assert "is not part of a label selector" in running.run("get", "pods", "-l", "==", status=2).err


def test_nodes_can_be_added_and_removed(lab: Lab) -> None:
    """Existing nodes keep their names and pods.

    Removal begins with the last node, and its pods move to other nodes.
    """
    named = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nname: mine\nnodes: "
        "[{role: control-plane}, {role: worker, name: n1}, {role: worker, name: n2}]\n---\n"
    )
    lab.up(named + MANIFEST)
    before = {pod["name"]: (pod["node"], pod["pid"]) for pod in lab.inspected["pods"]}
    lab.run("up", "--nodes", "4")
    assert [node["name"] for node in lab.inspected["nodes"]] == [
        "control-plane",
        "n1",
        "n2",
        "worker3",
    ]
    assert {
        pod["name"]: (pod["node"], pod["pid"])
        for pod in lab.inspected["pods"]
        if pod["node"] != "worker3"
    } == before
    lab.run("up", "--nodes", "2")
    wait_for(
        lambda: len(lab.pods("web")) == 4 and all(pod["ready"] for pod in lab.inspected["pods"]),
        "all pods on the nodes that are left",
    )
    assert {pod["node"] for pod in lab.inspected["pods"]} <= {"control-plane", "n1"}
    assert lab.run("ping").status == 0
    # --lab takes precedence over the name in the document.
    lab.apply(replaced(named, ("name: n2}", "name: n2}, {role: worker, name: n3}")))
    assert [node["name"] for node in lab.inspected["nodes"]] == ["control-plane", "n1", "n2", "n3"]


def test_the_verdict_names_policies_that_are_not_enforced(lab: Lab) -> None:
    """A result is not a success while a policy is not enforced."""
    policy = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\n"
        "spec: {podSelector: {}}\n---\n"
    )
    assert "not enforced: NetworkPolicy deny" in lab.up(policy + MANIFEST, "--policy", "none").err
    assert "all as Kubernetes promises, 1 object not enforced" in lab.run("ping", status=1).out
    for words, message in (
        ("--udp 80 --http /", "--udp cannot be combined with --http"),
        ("--tcp 80 --udp 80", "--udp cannot be combined with --tcp"),
        ("--sctp 80 --tcp 80 --http /", "--sctp cannot be combined with --tcp or --http"),
    ):
        assert message in lab.run("ping", "client", "svc:web", *words.split(), status=2).err
    assert (
        "default/client has no container foo; it has: main"
        in lab.run("exec", "client", "-c", "foo", "--", "true", status=2).err
    )
    lab.run("scale", "deployment", "web", "--replicas", "0")
    wait_for(
        lambda: len([pod for pod in lab.inspected["pods"] if not pod["host_network"]]) == 3,
        "only the client and DNS",
    )
    command = ("ping", "client", "svc:web", "--allow-unmodelled", "netpol")
    wait_for(lambda: lab.run(*command, status=None).status == 0, "the promised refusal")
    refused = lab.run(*command)
    assert (
        "refused, as promised: the Service has no ready endpoint: no pod has the labels app=web"
        in refused.out
    )
    assert "next: kubenetlab describe svc web" in refused.err
    assert "Scaled down replica set" in lab.run("get", "events").out


def test_a_warning_does_not_refuse_a_change(lab: Lab) -> None:
    """It is shown, by `up` of a new lab and of a running one, by `plan` and `apply`."""
    pool = (
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: six}\n"
        "spec: {cidr: fd00:77::/48}\n"
    )
    cluster = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: bridge}\n"
    unused = "warning: <stdin>:4  IPPool six: spec.cidr: unused: pods of this cluster have no IPv6"
    created = lab.run("up", "-f", "-", stdin=f"{pool}---\n{cluster}")
    assert created.err.count(unused) == 1
    for command in ("plan", "apply", "up"):
        assert lab.run(command, "-f", "-", stdin=pool).err.count(unused) == 1
    changed = lab.run("up", "--cni", "flannel,backend=host-gw,vni=7")
    assert "networking.cni.vni: has no effect with backend: host-gw" in changed.err
    assert "cni bridge → flannel" in changed.out
    assert lab.run("diff").status == 0
