"""The CNI mode conflist: real plugins attach the pods, and failing ones do not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.datapath.cni.conflist import DIRECTORIES
from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import OUTSIDE, PLUGINS_ADVICE, has_plugins
from tests.labs.users import User, UsersLab

HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "{{.PodCIDR}}"}]]}


needs_plugins = pytest.mark.skipif(not has_plugins(), reason=PLUGINS_ADVICE)


def pods(*names: tuple[str, str], **fields: Any) -> str:
    """Return manifests of pods: (name, node) of each; fields of the container."""
    container = {"name": "main", "image": "agnhost", "args": ["netexec"]}
    container |= {"ports": [{"containerPort": 8080}]} | fields
    return "".join(
        "---\napiVersion: v1\nkind: Pod\n"
        f"metadata: {{name: {name}, labels: {{app: web}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{json.dumps(container)}]}}\n"
        for name, node in names
    )


def cluster(cni: object, family: str = "ipv4") -> str:
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {json.dumps(cni)}}}\n"
        f"external: [{{name: outside, address: {OUTSIDE[family]}, ports: [8080]}}]\n"
    )


THREE = pods(("a", "worker"), ("b", "worker"), ("c", "worker2"))
SERVICE = (
    "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
    "spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web},"
    " ports: [{port: 80, targetPort: 8080}]}\n"
)


def configuration(*plugins: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the mode with a configuration list."""
    document = {"cniVersion": "1.0.0", "name": "net", "plugins": list(plugins)}
    return {"type": "conflist", "conflist": document} | fields


BRIDGE = {"type": "bridge", "isGateway": True, "hairpinMode": True, "ipam": HOST_LOCAL}
PTP = configuration(
    {"type": "ptp", "ipam": HOST_LOCAL | {"routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.rp_filter": "2"}},
)


def kept(lab: Lab, kind: str = "results") -> list[str]:
    """Return the names of files that plugins keep on all nodes: results, or addresses."""
    folder = {"results": "results", "addresses": "networks/*"}[kind]
    paths = lab.directory.glob(f"files/*/var/lib/cni/{folder}/*")
    return sorted(path.name for path in paths if path.name[0].isalnum() and path.name != "lock")


def leases(lab: Lab) -> list[str]:
    """Return the addresses that host-local has assigned."""
    return [name for name in kept(lab, "addresses") if not name.startswith("last_reserved")]


@needs_plugins
@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
def test_pods_have_the_addresses_of_the_plugins(lab: Lab, family: str) -> None:
    """Pods and endpoints have the addresses that host-local has assigned, in every family."""
    lab.up(cluster("conflist", family) + THREE + SERVICE)
    assert lab.problems == []
    everywhere = [pod for pod in lab.inspected["pods"] if not pod["host_network"]]
    assert leases(lab) == sorted(address for pod in everywhere for address in pod["addresses"])
    endpoints = lab.service("web")["endpoints"]
    primary = {lab.pod(name)["addresses"][0] for name in "abc"}
    assert primary <= {endpoint["address"] for endpoint in endpoints}


@needs_plugins
def test_another_plugin_and_a_chain(lab: Lab) -> None:
    """The pod has a link of ptp and a sysctl of tuning; `diff` reports neither as drift."""
    lab.up(cluster(PTP) + THREE)
    assert lab.problems == []
    pod = lab.pod("a")
    assert lab.inside(pod, "cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter") == "2\n"
    (address,) = pod["addresses"]
    routes = json.loads(lab.inside(lab.place("nodes", "worker"), "ip", "-j", "route"))
    (route,) = [route for route in routes if route["dst"] == address]
    assert route["dev"].startswith("veth")


@needs_plugins
def test_host_ports_are_the_plugins(lab: Lab) -> None:
    """The plugin portmap makes the rules; the lab makes none."""
    ports = [{"containerPort": 8080, "hostPort": 8081}]
    lab.up(cluster("conflist") + pods(("a", "worker"), ("b", "worker2"), ports=ports))
    target = ("TCP", lab.place("nodes", "worker")["addresses"][0], 8081)
    assert [answer.server for answer in lab.ask(lab.place("external", "outside"), target)]
    rules = lab.inside(lab.place("nodes", "worker"), "iptables-save", "-t", "nat")
    assert "CNI-HOSTPORT-DNAT" in rules
    tables = lab.inside(lab.place("nodes", "worker"), "nft", "list", "tables")
    assert "hostport" not in tables.lower().replace("cni-hostport", "")


@needs_plugins
def test_a_pod_that_goes_releases_its_address(lab: Lab) -> None:
    """DEL frees what ADD took, before the sandbox is removed."""
    lab.up(cluster("conflist") + THREE)
    before = leases(lab)
    (address,) = lab.pod("a")["addresses"]
    assert address in before
    lab.run("delete", "pod", "a")
    wait_for(lambda: leases(lab) == [lease for lease in before if lease != address], "DEL")
    wait_for(lambda: len(kept(lab)) == len(before) - 1, "the result to be dropped")
    wait_for(lambda: not list(Path("/run/netns").glob(f"{lab.name}_pod_default_a*")), "the sandbox")
    assert lab.run("diff").status == 0


@needs_plugins
def test_a_lost_sandbox_is_attached_again(lab: Lab) -> None:
    """GC releases the address of the lost sandbox, and the new sandbox gets another one."""
    lab.up(cluster("conflist") + THREE)
    (before,) = lab.pod("a")["addresses"]
    (victim,) = lab.pids(f"{lab.name}/pod/default/a/")
    lab.inside(lab.pod("b"), "kill", "-9", str(victim))
    wait_for(
        lambda: lab.pod("a")["ready"] and lab.pod("a")["addresses"] not in ([], [before]),
        "a new address",
    )
    wait_for(lambda: before not in leases(lab), "the former address to be released")
    wait_for(lambda: lab.problems == [], "the lab to be whole")


@needs_plugins
@pytest.mark.parametrize("role", ["agent", "node-agent"])
def test_killed_processes_lose_no_attachment(lab: Lab, role: str) -> None:
    """A new agent attaches no pod twice and frees nothing that is in use."""
    lab.up(cluster("conflist") + THREE)
    before = {pod["name"]: pod["addresses"] for pod in lab.inspected["pods"]}
    results = kept(lab)
    for _ in range(2):
        lab.kill(role)
    lab.apply(pods(("d", "worker")))
    wait_for(lambda: lab.pod("d")["ready"], "a pod made afterwards")
    assert {name: lab.pod(name)["addresses"] for name in "abc"} == {
        name: before[name] for name in "abc"
    }
    assert set(results) < set(kept(lab))
    assert lab.problems == []


def plugin(folder: Path, text: str, name: str = "own") -> dict[str, Any]:
    """Make a plugin from a shell script; return a mode with it."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return configuration({"type": name}, binDirs=[str(folder), *DIRECTORIES])


def failure(lab: Lab, pod: str) -> str:
    """Return the message of the latest event FailedCreatePodSandBox of a pod."""
    events = [
        event["message"]
        for event in lab.get("events")["items"]
        if event["reason"] == "FailedCreatePodSandBox" and event["involvedObject"]["name"] == pod
    ]
    return events[-1] if events else ""


def log_of(lab: Lab) -> str:
    return (lab.directory / "log").read_text()


ERROR = """echo '{"code": 7, "msg": "no such bridge", "details": "br7"}'; exit 1"""


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            ERROR,
            'plugin type="own" failed (add): no such bridge; br7 (code 7: the plugin\'s'
            " configuration is invalid)",
        ),
        ("echo hello", 'failed to unmarshal the plugin\'s result "hello"'),
        ("sleep 1000", "netplugin did not end within 1 s and was killed"),
        ("echo '{}'", "failed to find network info for sandbox"),
        ("echo oops >&2; exit 3", 'netplugin failed: "oops": exit status 3'),
    ],
    ids=["error", "rubbish", "hangs", "no address", "stderr"],
)
def test_a_failing_plugin_is_an_event(lab: Lab, tmp_path: Path, script: str, message: str) -> None:
    """The pod stays ContainerCreating; pods in the node's network run, and the lab answers."""
    host_pod = THREE.split("---")[1].replace("nodeName", "hostNetwork: true, nodeName")
    mode = plugin(tmp_path, script) | {"timeout": 1}
    manifest = cluster(mode) + pods(("a", "worker"))
    result = lab.run("up", "-f", "-", "--timeout", "3", stdin=manifest, status=1)
    assert "not ready: default/a: FailedCreatePodSandBox" in result.err
    assert lab.pod("a")["phase"] == "Pending"
    text = wait_for(lambda: failure(lab, "a"), "the event")
    assert text.startswith(
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network"
        ' for sandbox "'
    )
    assert message in text
    wait_for(lambda: log_of(lab).count(message) > 3, "more attempts")
    assert "(delete)" not in failure(lab, "a")
    lab.apply(f"---{host_pod}".replace("name: a,", "name: host,"), status=1)
    wait_for(lambda: lab.pod("host")["ready"], "a pod in the node's network")


@needs_plugins
def test_a_plugin_that_recovers_is_called_again(lab: Lab, tmp_path: Path) -> None:
    """The failed ADD is repeated, and the pod runs."""
    mode = plugin(tmp_path, ERROR)
    mode["conflist"]["plugins"] = [BRIDGE, {"type": "own"}]
    lab.run("up", "-f", "-", "--timeout", "2", stdin=cluster(mode) + THREE, status=1)
    assert wait_for(lambda: failure(lab, "a"), "the event")
    assert leases(lab) == []  # the failed ADD was undone
    plugin(tmp_path, "sed 's/.*\"prevResult\": //; s/}$//' | grep -v '^$'")
    wait_for(lambda: all(lab.pod(name)["ready"] for name in "abc"), "the pods")
    assert not lab.get("pods")["items"][0]["status"].get("message")


def test_up_names_programs_and_directories(lab: Lab, tmp_path: Path) -> None:
    """A list may come from others: it cannot hide which programs run."""
    mode = plugin(tmp_path, ERROR)
    result = lab.run("up", "-f", "-", "--timeout", "2", stdin=cluster(mode) + THREE, status=1)
    directories = ", ".join(mode["binDirs"])
    assert f"CNI plugins own attach the pods: programs of {directories}\n" in result.out


def test_a_missing_plugin_is_an_event(lab: Lab) -> None:
    """The message names the directories that were searched."""
    mode = configuration({"type": "calico"}, binDirs=["/opt/none"])
    lab.run("up", "-f", "-", "--timeout", "2", stdin=cluster(mode) + THREE, status=1)
    text = wait_for(lambda: failure(lab, "a"), "the event")
    assert 'failed to find plugin "calico" in path [/opt/none]' in text


@needs_plugins
def test_check_finds_what_was_changed(lab: Lab) -> None:
    """`diff` shows the plugin's message; the successor of the pod is whole again."""
    lab.up(cluster(PTP) + THREE)
    assert lab.run("diff").status == 0
    lab.inside(lab.pod("a"), "ip", "route", "del", "default")
    changed = lab.run("diff", status=1)
    assert '  ~ attachment eth0 by CNI plugins    (CHECK: plugin type="ptp" failed (check): ' in (
        changed.out
    )
    assert "1 difference in 1 namespace" in changed.out
    assert "next: kubenetlab delete pod a -n default" in changed.err + changed.out
    (entry,) = json.loads(lab.run("diff", "-o", "json", status=1).out)["changes"]
    assert entry["netns"].startswith("pod/default/a/")
    assert entry["differences"][0]["action"] == "change"
    lab.run("delete", "pod", "a")
    lab.apply(THREE)
    wait_for(lambda: lab.problems == [], "the new pod")


CHECK_PLUGIN = """
case $CNI_COMMAND in
CHECK) echo '{"cniVersion": "0.4.0", "code": 107, "msg": "link is gone"}'; exit 1 ;;
ADD) echo '{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.7.0.5/24"}]}' ;;
esac
"""


@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 1), ({"disableCheck": True}, 0), ({"cniVersion": "0.3.1"}, 0)],
    ids=["0.4.0", "disableCheck", "0.3.1"],
)
def test_check_shows_codes_of_plugins(
    lab: Lab, tmp_path: Path, fields: dict[str, Any], status: int
) -> None:
    """CHECK exists since 0.4.0, and a list can switch it off."""
    mode = plugin(tmp_path, CHECK_PLUGIN)
    mode["conflist"] |= {"cniVersion": "0.4.0"} | fields
    manifest = cluster(mode) + pods(("a", "worker"))
    lab.run("up", "-f", "-", "--timeout", "3", stdin=manifest, status=None)
    assert wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    lines = [line for line in lab.run("diff", status=None).out.splitlines() if "CNI" in line]
    expected = '(CHECK: plugin type="own" failed (check): link is gone (code 107))'
    assert [line.partition("    ")[2] for line in lines[:1]] == [expected] * status
    assert ([] if status else lines) == []


GC_PLUGIN = """
input=$(cat)
case $CNI_COMMAND in
ADD)
    number=$(( $(ls /var/lib/cni | grep -c lease) + 2 ))
    echo 10.7.0.$number > /var/lib/cni/lease-$CNI_CONTAINERID
    echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.'$number'/24"}]}' ;;
DEL) rm -f /var/lib/cni/lease-$CNI_CONTAINERID ;;
GC) echo "$input" >> /var/lib/cni/collected ;;
esac
"""


def test_garbage_collection_of_version_1_1(lab: Lab, tmp_path: Path) -> None:
    """After a sandbox was lost, the plugin is told which attachments are still valid."""
    mode = plugin(tmp_path, GC_PLUGIN)
    mode["conflist"]["cniVersion"] = "1.1.0"
    lab.run("up", "-f", "-", "--timeout", "3", stdin=cluster(mode) + THREE, status=None)
    assert wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    (victim,) = lab.pids(f"{lab.name}/pod/default/a/")
    lab.inside(lab.place("nodes", "worker"), "kill", "-9", str(victim))
    path = lab.directory / "files/node_worker/var/lib/cni/collected"
    wait_for(lambda: path.exists() and path.read_text().endswith("}\n"), "GC")
    document = json.loads(path.read_text().splitlines()[0])
    valid = {entry["containerID"] for entry in document["cni.dev/valid-attachments"]}
    assert len(valid) == 2  # b, and the new sandbox of a

    def ids(pattern: str) -> set[str]:
        return {each.name.split("-")[1] for each in path.parent.glob(pattern)}

    wait_for(lambda: ids("lease-*") == ids("results/*") == valid, "what is kept to be valid")


STATUS_PLUGIN = """
case $CNI_COMMAND in
STATUS) if [ -e /var/lib/cni/broken ]; then
        echo '{"cniVersion": "1.1.0", "code": 50, "msg": "no agent", "details": "port 99"}'
        exit 1
    fi ;;
ADD) echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.5/24"}]}' ;;
esac
"""


def test_status_of_version_1_1(lab: Lab, tmp_path: Path) -> None:
    """A node is NotReady while a plugin says so, and attaches no pod; other nodes go on."""
    mode = plugin(tmp_path, STATUS_PLUGIN)
    mode["conflist"]["cniVersion"] = "1.1.0"
    lab.run("up", "-f", "-", "--timeout", "3", stdin=cluster(mode) + THREE, status=None)
    assert wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    broken = lab.directory / "files/node_worker/var/lib/cni/broken"
    broken.touch()

    def condition(node: str) -> Any:
        nodes = {each["metadata"]["name"]: each for each in lab.get("nodes")["items"]}
        (ready,) = nodes[node]["status"]["conditions"]
        return ready

    wait_for(lambda: condition("worker")["status"] == "False", "NotReady", within_s=20)
    assert (condition("worker")["reason"], condition("worker")["message"]) == (
        "KubeletNotReady",
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady"
        ' message:Network plugin returns error: plugin type="own" failed (status): no agent;'
        " port 99 (code 50: the plugin is not available: it cannot serve new pods)",
    )
    assert condition("worker2")["status"] == "True"
    assert lab.pod("a")["addresses"]
    lab.apply(pods(("d", "worker"), ("e", "worker2")), status=None)
    wait_for(lambda: lab.pod("e")["addresses"], "a pod of another node")

    def network_events() -> list[str]:
        return [
            event["message"]
            for event in lab.get("events")["items"]
            if event["reason"] == "NetworkNotReady" and event["involvedObject"]["name"] == "d"
        ]

    assert "no agent; port 99" in wait_for(network_events, "the event")[0]
    assert not lab.pod("d")["addresses"]
    broken.unlink()
    wait_for(lambda: condition("worker")["status"] == "True", "Ready", within_s=20)
    wait_for(lambda: lab.pod("d")["addresses"], "ADD after the recovery")


@needs_plugins
def test_a_file_is_read_from_the_command_line(lab: Lab, tmp_path: Path) -> None:
    """The lab keeps its content: a new agent needs no file."""
    path = tmp_path / "10-net.conflist"
    path.write_text(json.dumps(PTP["conflist"]))
    lab.up(THREE, "--cni", f"conflist,file={path}", "--nodes", "3")
    path.unlink()
    lab.kill("agent")
    lab.apply(pods(("d", "worker")))
    wait_for(lambda: lab.pod("d")["ready"], "a pod made afterwards")
    assert lab.problems == []
    missing = lab.run("up", "--cni", f"conflist,file={path}", status=2)
    assert f"--cni conflist,file={path}: " in missing.err
    assert "No such file or directory" in missing.err


@needs_plugins
def test_without_root(nobody: User) -> None:
    """Plugins run as root of the lab's user namespace."""
    from tests.conftest import LAB_PREFIX

    lab = UsersLab(f"{LAB_PREFIX}c", nobody)
    try:
        lab.run("up", "-f", "-", stdin=cluster("conflist") + THREE + SERVICE)
        assert lab.problems == []
        lab.run("delete", "pod", "a")
        lab.run("apply", "-f", "-", stdin=pods(("d", "worker")))
        wait_for(lambda: lab.pod("d")["ready"], "a pod made afterwards")
        assert lab.problems == []
    finally:
        lab.down()
    assert not lab.directory.exists()


@needs_plugins
def test_plugins_are_replaced_in_a_running_lab(lab: Lab) -> None:
    """After a change of the list or the mode, nothing of the former plugins is left on a node."""

    def node_links() -> set[str]:
        node = lab.place("nodes", "worker")
        return {link["ifname"] for link in json.loads(lab.inside(node, "ip", "-j", "link"))}

    ipam = HOST_LOCAL | {"routes": [{"dst": "0.0.0.0/0"}]}
    own = configuration(BRIDGE | {"bridge": "own0", "ipam": ipam})
    lab.up(cluster("bridge") + THREE)
    for mode, link, former in (
        ("conflist", "cni0", "cbr0"),
        (own, "own0", "cni0"),
        ("flannel", "flannel.1", "own0"),
    ):
        lab.up(cluster(mode) + THREE)
        wait_for(lambda: lab.problems == [], f"the pods of {mode}", within_s=60)
        assert link in node_links()
        assert former not in node_links()
        (answer,) = lab.ask(lab.pod("a"), ("TCP", lab.pod("c")["addresses"][0], 8080))
        assert answer.server


@needs_plugins
def test_a_lost_node_is_built_again(lab: Lab) -> None:
    """Its pods are attached again; no address of the former ones stays in use."""
    lab.up(cluster("conflist") + THREE)
    (victim,) = lab.pids(f"{lab.name}/node/worker")[:1]
    lab.inside(lab.place("nodes", "worker2"), "kill", "-9", str(victim))
    wait_for(
        lambda: (
            lab.place("nodes", "worker")["pid"] not in (None, victim)
            and all(pod["ready"] for pod in lab.inspected["pods"])
        ),
        "the node and its pods",
    )
    everywhere = [pod for pod in lab.inspected["pods"] if not pod["host_network"]]
    expected = sorted(address for pod in everywhere for address in pod["addresses"])
    wait_for(lambda: leases(lab) == expected, "the former addresses to be released")
    wait_for(lambda: lab.problems == [], "the lab to be whole")


@needs_plugins
def test_the_nodes_files_are_seen_inside(lab: Lab) -> None:
    """The list as on a real node, with its own range, and what the plugins keep."""
    lab.up(cluster("conflist") + THREE)
    show = ("exec", "node:worker", "--")
    text = lab.run(*show, "cat", "/etc/cni/net.d/10-containerd-net.conflist").out
    assert json.loads(text)["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    (address,) = lab.pod("a")["addresses"]
    assert address in lab.run(*show, "ls", "/var/lib/cni/networks/containerd-net").out
    assert not Path("/var/lib/cni").exists() or address not in os.listdir("/var/lib/cni")


@needs_plugins
def test_a_node_is_removed_with_its_pods(lab: Lab) -> None:
    """The lab does not call DEL: all state of the plugins ends with the node."""
    lab.up(cluster("conflist") + THREE)
    lab.run("up", "--nodes", "2")
    wait_for(lambda: len(lab.inspected["nodes"]) == 2, "the node to go")
    wait_for(lambda: lab.problems == [], "the lab to be whole")


def test_a_script_cannot_attach_pods(lab: Lab) -> None:
    """`plan -o sh` would make a lab whose pods have no network; `plan` shows the sandboxes."""
    refused = lab.run("plan", "-o", "sh", "-f", "-", stdin=cluster("conflist") + THREE, status=2)
    assert "programs attach the pods with cni conflist" in refused.err
    shown = lab.run("plan", "-f", "-", stdin=cluster("conflist") + THREE).out
    assert "file /etc/cni/net.d/10-containerd-net.conflist" in shown


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (configuration({}), "networking.cni.conflist.plugins[0].type: expected the name of a"),
        (
            configuration({"type": "ptp"}) | {"file": "/x"},
            "networking.cni.file: a file is read from the command line only",
        ),
        ({"type": "conflist", "conflist": "{{.Pod}}"}, "{{.Pod}} is not known; known: .PodCIDR"),
        ({"type": "conflist", "conflist": "{"}, "networking.cni.conflist: expected JSON"),
        (configuration({"type": "ptp"}, binDirs=["bin"]), "expected an absolute path"),
    ],
    ids=["type", "file", "template", "json", "directory"],
)
def test_mistakes_are_found_before_anything_is_made(
    lab: Lab, mode: dict[str, Any], message: str
) -> None:
    """With the path of the field."""
    refused = lab.run("up", "-f", "-", stdin=cluster(mode) + THREE, status=2)
    assert message in refused.err
    assert not lab.directory.exists()
