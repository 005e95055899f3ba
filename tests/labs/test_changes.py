"""What changes in a lab that is up: applies, scaling, deletions, drift; and that nothing else is
touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import replaced
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for
from tests.labs.test_life import MANIFEST, generations, kernel_of, web_answers


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


def test_the_same_files_again_write_nothing(running: Lab) -> None:
    """No link, address, route, process or rule is touched: the kernel's own counters stand still."""
    store = running.directory / "store.json"
    before, written, saved = kernel_of(running), generations(running), store.stat().st_mtime_ns
    said = running.up(MANIFEST)
    assert [line.split()[-1] for line in said.out.splitlines()[:-1]] == ["unchanged"] * 3
    assert running.apply(MANIFEST).out.count("unchanged") == 3
    assert running.run("plan", "-f", "-", given=MANIFEST).out.strip() == "nothing to do"
    assert kernel_of(running) == before
    assert generations(running) == written
    assert store.stat().st_mtime_ns == saved


def test_scaling_up_and_down(running: Lab) -> None:
    """New pods with new addresses answer by the Service; the ones that stay keep theirs; what goes
    leaves nothing, and what was freed is not given out again at once.
    """
    before = {pod["name"]: (pod["pid"], pod["addresses"]) for pod in running.pods("web")}
    assert "scaled from 4 to 7" in running.run("scale", "deployment", "web", "--replicas", "7").out
    wait_for(lambda: sum(pod["ready"] for pod in running.pods("web")) == 7, "seven pods")
    wait_for(lambda: len(answering(running)) == 7, "seven pods to answer")
    more = {pod["name"]: (pod["pid"], pod["addresses"]) for pod in running.pods("web")}
    assert before.items() <= more.items()
    running.run("scale", "deploy/web", "deployment/web", "--replicas", "2")
    wait_for(lambda: len(running.pods("web")) == 2, "two pods")
    assert len(answering(running)) == 2
    assert running.run("diff").status == 0
    links = running.inside(
        running.place("nodes", "worker"), "ip", "-o", "link", "show", "master", "cbr0"
    ).splitlines()
    assert len(links) == sum(
        pod["node"] == "worker" and not pod["host_network"] for pod in running.seen["pods"]
    )
    running.run("scale", "deployment", "web", "--replicas", "4")
    wait_for(lambda: sum(pod["ready"] for pod in running.pods("web")) == 4, "four pods")
    given = {address for _, (address,) in more.values()}
    fresh = [pod["addresses"][0] for pod in running.pods("web") if pod["name"] not in more]
    assert fresh
    assert not given & set(fresh)


def answering(lab: Lab) -> set[str]:
    """The pods that answer by the Service web."""
    address = lab.service("web")["cluster_ips"][0]
    answers = lab.ask(lab.pod("client"), *[("TCP", address, 80)] * 100)
    assert all(answer.who for answer in answers)
    return {answer.who for answer in answers}


def test_a_deleted_pod_is_replaced(running: Lab) -> None:
    """By one of a new name and address; the Service never fails meanwhile."""
    pod = running.pod("web")
    said = running.run("delete", "pod", pod["name"])
    assert f"Pod default/{pod['name']} deleted" in said.out
    wait_for(lambda: sum(other["ready"] for other in running.pods("web")) == 4, "its successor")
    assert pod["name"] not in [other["name"] for other in running.pods("web")]
    assert pod["addresses"] not in [other["addresses"] for other in running.pods("web")]
    assert web_answers(running)


def test_a_changed_template_replaces_the_pods(running: Lab) -> None:
    """New pods of a new ReplicaSet; the Service follows without a gap."""
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


def test_a_selector_moves_a_service(running: Lab) -> None:
    """Its address stays, its endpoints change; back again."""
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


def test_what_is_deleted_is_gone(running: Lab) -> None:
    """A Service's address answers no more and is free; by file, all objects of it; deleting what is
    not there is told.
    """
    extra = replaced(MANIFEST, ("name: web", "name: extra"), ("app: web", "app: extra")).partition(
        "---\n"
    )[2]
    running.apply(extra)
    address = running.service("extra")["cluster_ips"][0]
    assert running.ask(running.pod("client"), ("TCP", address, 80))[0].who.startswith("extra-")
    running.run("delete", "-f", "-", given=extra)
    assert not [pod for pod in running.seen["pods"] if pod["name"].startswith("extra")]
    assert running.ask(running.pod("client"), ("TCP", address, 80))[0].error
    assert (
        "not found: Service default/extra"
        in running.run("delete", "service", "extra", status=1).err
    )


def test_refused_changes_change_nothing(running: Lab) -> None:
    """Immutable fields, an address that is taken: all problems with file, line and Kubernetes'
    words, and nothing is applied.
    """
    before = kernel_of(running)
    wrong = (
        replaced(
            MANIFEST,
            ("matchLabels: {app: web}", "matchLabels: {app: wib}"),
            ("labels: {app: web}", "labels: {app: wib}"),
            ("spec: {selector: {app: web}", "spec: {clusterIP: 10.96.99.99, selector: {app: web}"),
        )
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}\n"
    )
    said = running.apply(wrong, status=2).err
    assert "Deployment default/web: spec.selector: field is immutable" in said
    assert "Service default/web: spec.clusterIP" in said
    assert "Service default/late: spec.clusterIP" in said
    assert said.count("<stdin>:") >= 3
    assert kernel_of(running) == before
    assert not [service for service in running.seen["services"] if service["name"] == "late"]


def test_a_mode_cannot_be_taken_from_under_running_pods(lab: Lab) -> None:
    """bridge → none on a running lab is refused with a reason."""
    lab.up(MANIFEST)
    said = lab.run("up", "--cni", "none", status=2)
    assert "networking.cni" in said.err
    assert web_answers(lab)


def test_an_exhausted_range_is_an_event(lab: Lab) -> None:
    """One node, a /24: the 254th pod waits for an address and says why; it gets one when another
    goes.
    """
    many = (
        "{apiVersion: kubenetlab.dev/v1alpha1, kind: Cluster, nodes: [{role: control-plane}], networking: {podSubnet: 10.244.0.0/24}}\n---\n"
        + MANIFEST
    )
    lab.up(many)
    lab.run("scale", "deployment", "web", "--replicas", "252")
    wait_for(lambda: sum(pod["ready"] for pod in lab.pods("web")) == 250, "250 pods")
    waiting = [pod for pod in lab.pods("web") if not pod["ready"]]
    assert len(waiting) == 2
    said = lab.run("describe", "pod", waiting[0]["name"]).out
    assert "no IP addresses available in range set" in said
    lab.run("scale", "deployment", "web", "--replicas", "240")
    wait_for(
        lambda: len(lab.pods("web")) == 240 and all(pod["ready"] for pod in lab.pods("web")),
        "240 pods",
    )


def test_labs_read_folders_and_json(lab: Lab, tmp_path: Path) -> None:
    """A folder's files in order, YAML and JSON."""
    documents = MANIFEST.split("---\n")
    (tmp_path / "1-client.yaml").write_text(documents[0])
    (tmp_path / "2-web.yml").write_text(documents[1])
    (tmp_path / "3-service.json").write_text(
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},'
        ' "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}]}'
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    lab.run("up", "-f", str(tmp_path))
    assert web_answers(lab)


def test_what_is_kept_can_be_deleted_too(running: Lab) -> None:
    """Kinds that the lab does not model, by file and by name; names and files at once are refused."""
    kept = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: disk}\nspec: {accessModes: [ReadWriteOnce]}\n"
    running.apply(kept)
    assert "disk" in running.run("get", "persistentvolumeclaims").out
    assert (
        running.run("delete", "-f", "-", given=kept).out == "PersistentVolumeClaim disk deleted\n"
    )
    running.apply(kept)
    assert (
        running.run("delete", "persistentvolumeclaim", "disk").out
        == "PersistentVolumeClaim disk deleted\n"
    )
    assert (
        "not found: PersistentVolumeClaim disk"
        in running.run("delete", "-f", "-", given=kept, status=1).err
    )
    assert (
        "names or manifests, not both"
        in running.run("delete", "pod", "client", "-f", "-", given=kept, status=2).err
    )


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            ("namespace", "kube-system"),
            'namespaces "kube-system" is forbidden: this namespace may not be deleted',
        ),
        (("node", "worker"), "Node worker comes from the Cluster document"),
    ],
)
def test_what_belongs_to_the_cluster_is_not_deleted(
    running: Lab, what: tuple[str, ...], said: str
) -> None:
    """As in Kubernetes, or with what to do instead."""
    assert said in running.run("delete", *what, status=1).err
    assert running.run("get", *what).status == 0


def test_what_controllers_own_comes_back_as_another(running: Lab) -> None:
    """A deleted ReplicaSet and a deleted slice are made anew, with pods of their own; and so is the
    API server's Service.
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
    (piece,) = [
        item["metadata"]["name"]
        for item in running.get("endpointslices")["items"]
        if item["metadata"]["name"].startswith("web")
    ]
    running.run("delete", "endpointslice", piece)
    wait_for(lambda: len(answering(running)) == 4, "four pods to answer")
    running.run("delete", "service", "kubernetes")
    assert running.service("kubernetes")["cluster_ips"] == ["10.96.0.1"]


def test_a_changed_image_restarts_its_container(running: Lab) -> None:
    """In the same sandbox, with the same address; counted and told as a kubelet does."""
    image = "apiVersion: v1\nkind: Pod\nmetadata: {name: shape}\nspec: {containers: [{name: main, image: nginx}]}\n"
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


def test_labels_select_as_kubectls(running: Lab) -> None:
    """Equality, sets and existence; nonsense is refused."""
    names = {pod["name"] for pod in running.pods("web")}

    def selected(selector: str) -> set[str]:
        return {item["metadata"]["name"] for item in running.get("pods", "-l", selector)["items"]}

    assert selected("app=web") == selected("app in (web, wob)") == selected("app==web") == names
    assert "client" in selected("!app")
    assert not names & selected("app!=web")
    assert "is not part of a label selector" in running.run("get", "pods", "-l", "==", status=2).err


def test_more_nodes_keep_those_that_are_there(lab: Lab) -> None:
    """With their names and pods; fewer take the last ones away, and their pods find other nodes."""
    named = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nname: mine\nnodes: [{role: control-plane}, {role: worker, name: n1}, {role: worker, name: n2}]\n---\n"
    lab.up(named + MANIFEST)
    before = {pod["name"]: (pod["node"], pod["pid"]) for pod in lab.seen["pods"]}
    lab.run("up", "--nodes", "4")
    assert [node["name"] for node in lab.seen["nodes"]] == ["control-plane", "n1", "n2", "worker3"]
    assert {
        pod["name"]: (pod["node"], pod["pid"])
        for pod in lab.seen["pods"]
        if pod["node"] != "worker3"
    } == before
    lab.run("up", "--nodes", "2")
    wait_for(
        lambda: len(lab.pods("web")) == 4 and all(pod["ready"] for pod in lab.seen["pods"]),
        "all pods on the nodes that are left",
    )
    assert {pod["node"] for pod in lab.seen["pods"]} <= {"control-plane", "n1"}
    assert lab.run("ping").status == 0
    assert (
        lab.apply(replaced(named, ("name: n2}", "name: n2}, {role: worker, name: n3}"))).status == 0
    )  # --lab names the document, too
    assert [node["name"] for node in lab.seen["nodes"]] == ["control-plane", "n1", "n2", "n3"]


def test_policies_that_are_not_modelled_are_named_with_the_verdict(lab: Lab) -> None:
    """Nobody shall take all for well while a policy is only kept."""
    policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n---\n"
    assert "not enforced: NetworkPolicy deny" in lab.up(policy + MANIFEST).err
    assert "all as Kubernetes promises, 1 object not enforced" in lab.run("ping", status=1).out
    for words, said in (
        ("--udp 80 --http /", "--udp cannot be combined with --http"),
        ("--tcp 80 --udp 80", "--udp cannot be combined with --tcp"),
        ("--sctp 80 --tcp 80 --http /", "--sctp cannot be combined with --tcp or --http"),
    ):
        assert said in lab.run("ping", "client", "svc:web", *words.split(), status=2).err
    assert (
        "default/client has no container foo; it has: main"
        in lab.run("exec", "client", "-c", "foo", "--", "true", status=2).err
    )
    lab.run("scale", "deployment", "web", "--replicas", "0")
    wait_for(
        lambda: len([pod for pod in lab.seen["pods"] if not pod["host_network"]]) == 3,
        "only the client and DNS",
    )
    asked = ("ping", "client", "svc:web", "--allow-unmodelled", "netpol")
    wait_for(lambda: lab.run(*asked, status=None).status == 0, "a refusal, as promised")
    refused = lab.run(*asked)
    assert (
        "refused, as promised: the Service has no ready endpoint: no pod has the labels app=web"
        in refused.out
    )
    assert "next: kubenetlab describe svc web" in refused.err
    assert "Scaled down replica set" in lab.run("get", "events").out
