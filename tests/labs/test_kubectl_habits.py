"""Habits of kubectl and kind: each command works, or its error names the command to use."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.clusters import ONE_NODE, deployment, pod, service
from tests.labs.lab import COMMAND, Lab, run, wait_for
from tests.patience import patiently

SHOP = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web-one, namespace: shop, labels: {app: web}}
spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-two, namespace: shop, labels: {app: web, tier: front}}
spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
"""
POLICY = """\
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: deny-all, labels: {app: web}}
spec: {selector: {}}
---
"""


def is_in(text: str, path: Path) -> bool:
    return text in path.read_text()


def is_logged(lab: Lab, pod_name: str, line: str) -> bool:
    return line in lab.run("logs", pod_name, status=None).out


def test_files_and_names_need_no_options(lab: Lab, tmp_path: Path) -> None:
    """Examples are `up my.yaml`, `apply`, `plan` and `delete` with a file, and `down NAME`."""
    file, more_file = tmp_path / "my.yaml", tmp_path / "more.yaml"
    file.write_text(ONE_NODE + deployment("web", 1))
    more_file.write_text(service("web"))
    run("up", str(file), "--lab", lab.name)
    assert lab.run("apply", str(more_file)).out.startswith("Service default/web created")
    assert (
        "nothing" in lab.run("plan", str(more_file)).out
        or not lab.run("plan", str(more_file), "-o", "json").json
    )
    assert lab.run("scale", "deploy/web", "3").out == "deployment web scaled from 1 to 3\n"
    assert lab.run("scale", "deployment", "web", "2").out == "deployment web scaled from 3 to 2\n"
    assert "--replicas 3" in lab.run("scale", "deploy/web", status=2).err
    assert "from 0 to 20000" in lab.run("scale", "deploy/web", "99999999999999999999", status=2).err
    assert "to name a lab, use --lab nothing" in lab.run("up", "nothing", status=2).err
    assert (
        lab.run("up", "not/there.yaml", status=2).err
        == "error: there is no file or directory not/there.yaml\n"
    )
    assert lab.run("delete", str(more_file)).out == "Service default/web deleted\n"
    assert run("down", lab.name).out == f"lab {lab.name} is down\n"
    assert f"there is no lab {lab.name}" in run("down", lab.name, status=2).err
    assert "scale" in run("help").out
    assert run("help", "scale").out == run("scale", "--help").out


def test_get_clusters_lists_all_labs(labs: Callable[[], Lab]) -> None:
    """Like kind, it lists all labs, or only the selected one."""
    first, second = labs(), labs()
    first.up(ONE_NODE)
    second.up(ONE_NODE)
    listed = [line.split()[0] for line in run("get", "clusters").out.splitlines()[1:]]
    assert {first.name, second.name} <= set(listed)
    assert [line.split()[0] for line in first.run("get", "clusters").out.splitlines()[1:]] == [
        first.name
    ]


def test_a_file_can_be_deleted_in_any_order(lab: Lab, tmp_path: Path) -> None:
    """Deleting a namespace also deletes its objects.

    They existed when the command began, so they are no error. --ignore-not-found accepts missing
    objects.
    """
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    lab.up(ONE_NODE + SHOP)
    deleted = lab.run("delete", "-f", str(file)).out.splitlines()
    assert deleted == [
        f"{title} deleted"
        for title in ("Namespace shop", "Pod shop/web-one", "Pod shop/web-two", "Service shop/web")
    ]
    assert lab.get("pods", "-n", "shop")["items"] == []
    assert (
        "not found: Namespace shop, Pod shop/web-one"
        in lab.run("delete", "-f", str(file), status=1).err
    )
    lab.run("delete", "-f", str(file), "--ignore-not-found", status=0)
    lab.run("delete", "pod", "nobody", "--ignore-not-found", status=0)
    lab.run("delete", "pdb", "nobody", "--ignore-not-found", status=0)
    lab.run("delete", "pod", "nobody", status=1)
    assert (
        "not found: PodDisruptionBudget nobody" in lab.run("delete", "pdb", "nobody", status=1).err
    )
    assert (
        "there is no PodDisruptionBudget default/nobody"
        in lab.run("get", "pdb", "nobody", status=1).err
    )


def test_labels_select_objects(lab: Lab) -> None:
    """-l works with get, describe, logs and delete, also for kept kinds, but not with a name."""
    lab.up(ONE_NODE + SHOP + POLICY)
    selection = ("-n", "shop", "-l", "tier=front")
    assert lab.run("get", "pods", *selection, "-o", "name").out == "pod/web-two\n"
    assert [
        line.split()[1]
        for line in lab.run("describe", "pods", *selection).out.splitlines()
        if line.startswith("Name:")
    ] == ["web-two"]
    output = lab.run(
        "logs", "-n", "shop", "-l", "app=web", "--prefix", "--tail", "1"
    ).out.splitlines()
    assert [line.split()[0] for line in output] == ["[pod/web-one/main]", "[pod/web-two/main]"]
    assert "nothing found" in lab.run("logs", "-l", "app=nobody").out
    assert (
        "-l cannot be combined with web-one" in lab.run("logs", "web-one", *selection, status=2).err
    )
    assert (
        "-l cannot be combined with a name"
        in lab.run("get", "pods", "web-one", *selection, status=2).err
    )
    for words in (("get", "pods"), ("get", "pods", "-w"), ("describe", "pods"), ("delete", "pods")):
        assert "is not part of a label selector" in lab.run(*words, "-l", "=", status=2).err
    assert (
        "-l cannot be combined with a name"
        in lab.run("delete", "pod", "web-one", *selection, status=2).err
    )
    assert "needs a kind" in lab.run("delete", "-l", "app=web", status=2).err
    assert lab.run("delete", "pods,services", *selection).out == "Pod shop/web-two deleted\n"
    assert "nothing found" in lab.run("delete", "all", *selection).out
    assert (
        lab.run("delete", "poddisruptionbudgets", "-l", "app=web").out
        == "PodDisruptionBudget deny-all deleted\n"
    )
    assert [entry["metadata"]["name"] for entry in lab.get("pods", "-n", "shop")["items"]] == [
        "web-one"
    ]


def test_options_may_precede_the_command(lab: Lab) -> None:
    """-n and --lab are accepted there, as kubectl accepts its own."""
    lab.up(ONE_NODE + SHOP)
    for words in (("-n", "shop"), ("-n=shop",), ("--namespace", "shop"), ("--namespace=shop",)):
        assert (
            run(*words, "--lab", lab.name, "get", "pod", "web-one", "-o", "name").out
            == "pod/web-one\n"
        )
    assert (
        "no lab nobody is up"
        in run("--lab", "nobody", "rollout", "status", "deploy/web", status=1).err
    )
    assert "No such option" in run("-x", "get", "pods", status=2).err
    assert run("-n", status=2).err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("up --name x", "--name; did you mean --lab?"),
        ("up --config=kind.yaml", "--config; did you mean --filename?"),
        ("get pods --context x", "--context; did you mean --lab?"),
        ("schema --name x", "--name"),
    ],
)
def test_options_of_kind_and_kubectl_name_the_option_to_use(words: str, message: str) -> None:
    error = run(*words.split(), status=2).err.splitlines()[0]
    assert error.startswith(f"error: No such option: {message}")


def test_a_kept_object_belongs_to_one_namespace(lab: Lab) -> None:
    """Without a namespace, or with null, it belongs to `default`.

    Objects of cluster scope belong to no namespace.
    """
    lab.up(
        ONE_NODE
        + SHOP
        + POLICY.replace("metadata: {name: deny-all", "metadata: {namespace: null, name: deny-all")
    )
    assert lab.run("get", "pdb", "-o", "name").out == "poddisruptionbudget.policy/deny-all\n"
    assert "nothing found" in lab.run("get", "pdb", "-n", "shop").out
    assert "not found" in lab.run("delete", "pdb", "deny-all", "-n", "shop", status=1).err
    lab.run("delete", "pdb", "deny-all", status=0)


def test_logs_of_several_pods_can_be_followed(lab: Lab, tmp_path: Path) -> None:
    """Each line has the name of its pod; the command ends with the last pod."""
    lab.up(ONE_NODE + SHOP + pod("client"))
    log_file = tmp_path / "log"
    words = [*COMMAND, "logs", "-f", "-l", "app=web", "-n", "shop", "--prefix", "--lab", lab.name]
    with log_file.open("w") as out, subprocess.Popen(words, stdout=out) as following:
        wait_for(lambda: log_file.read_text().count("Started HTTP") == 2, "the logs of both")
        for name in ("web-one", "web-two"):
            lab.run(
                "ping", "client", f"shop/{name}", "--http", f"/hostname?{name}", "--tcp", "8080"
            )
            expected = f"GET /hostname?{name} from"
            wait_for(partial(is_in, expected, log_file), "a request")
        lab.run("delete", "namespace", "shop")
        assert following.wait(timeout=patiently(60)) == 0
    for line in log_file.read_text().splitlines():
        if "GET" in line:
            assert line.split()[0] == f"[pod/{line.split('?')[1].split()[0]}/main]"


def test_describe_accepts_the_beginning_of_names(lab: Lab) -> None:
    """It shows all objects whose names begin with the word, if none has it as its name."""
    lab.up(ONE_NODE + SHOP)
    described = lab.run("describe", "pod", "web", "-n", "shop").out.splitlines()
    assert [line.split()[1] for line in described if line.startswith("Name:")] == [
        "web-one",
        "web-two",
    ]
    assert lab.run("describe", "pod", "nobody", "-n", "shop", status=1).err
    assert "nothing found" in lab.run("describe", "deployments", "-n", "shop").out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("create -f web.yaml", "kubenetlab apply -f web.yaml"),
        ("create cluster --config kind.yaml", "kubenetlab up -f kind.yaml"),
        (
            "create deployment web --image=nginx",
            "kubectl create deployment web --image=nginx --dry-run=client -o yaml "
            "| kubenetlab apply -f -",
        ),
        (
            "run web --image=nginx",
            "kubectl run web --image=nginx --dry-run=client -o yaml | kubenetlab apply -f -",
        ),
        (
            "edit deploy/web",
            "kubenetlab get deploy/web -o yaml > FILE; edit it; kubenetlab apply -f FILE",
        ),
        ("label pod web a=b", "kubenetlab get pod web -o yaml > FILE"),
        (
            "drain worker --force",
            "kubenetlab get node worker -o yaml > FILE; set spec.unschedulable",
        ),
        ("wait --for=condition=Available deploy/web", "kubenetlab rollout status deploy/web"),
        ("top pods", "kubenetlab list"),
        ("cp shop/web:/etc/hosts .", "kubenetlab exec shop/web -- cat /etc/hosts"),
        ("cluster-info", "kubenetlab list"),
    ],
)
def test_unsupported_verbs_name_the_command_to_use(words: str, hint: str) -> None:
    """The exit status is 2, and the command contains the given arguments."""
    assert (
        f"there is no command {words.split()[0]}; use: {hint}" in run(*words.split(), status=2).err
    )


def test_unsupported_verbs_of_rollout_name_the_command_to_use() -> None:
    """The same holds for top-level verbs of kubectl."""
    errors = run("rollout", "undo", "deploy/web", status=2).err
    assert "there is no command rollout undo; use: kubenetlab apply -f FILE" in errors


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("scale web 3", "for example: scale deployment web, or deployment/web"),
        ("scale deploy 3", "for example: scale deploy NAME, or deploy/NAME"),
        ("delete netpol", "for example: delete netpol NAME, or netpol/NAME"),
    ],
)
def test_a_single_word_needs_a_kind_or_a_name(lab: Lab, words: str, hint: str) -> None:
    """The example in the message contains the word at its place."""
    lab.up(ONE_NODE)
    assert hint in lab.run(*words.split(), status=2).err


def test_suggested_commands_are_quoted_for_the_shell() -> None:
    """Arguments with spaces stay one argument."""
    errors = run("run", "web", "--image=nginx", "--env", "A=b c", status=2).err
    assert "kubectl run web --image=nginx --env 'A=b c' --dry-run=client" in errors


def test_output_of_get_can_be_applied_again(lab: Lab) -> None:
    """Applying the output of `get -o yaml` changes nothing."""
    lab.up(ONE_NODE + deployment("web", 1))
    output = lab.run("get", "deploy", "web", "-o", "yaml").out
    assert lab.apply(output).out.startswith("Deployment default/web unchanged")


def test_get_supports_jsonpath_templates_and_sorting(lab: Lab) -> None:
    """Invalid templates and fields end with exit status 2."""
    lab.up(ONE_NODE + SHOP)
    names = "jsonpath={range .items[*]}{.metadata.name}={.spec.nodeName}{'\\n'}{end}"
    assert (
        lab.run("get", "pods", "-n", "shop", "-o", names).out
        == "web-one=control-plane\nweb-two=control-plane\n"
    )
    assert (
        lab.run("get", "svc", "web", "-n", "shop", "-o", "jsonpath={.spec.ports[0].port}").out
        == "80"
    )
    ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    assert lab.run("get", "pod", "web-one", "-n", "shop", "-o", ready).out == "True"
    by_tier = lab.run(
        "get", "pods", "-n", "shop", "--sort-by", ".metadata.labels.tier", "-o", "name"
    ).out.split()
    assert by_tier == ["pod/web-one", "pod/web-two"]
    by_name = lab.run("get", "pods", "-A", "--sort-by={.metadata.name}", "-o", "name").out.split()
    assert by_name == sorted(by_name)
    assert (
        lab.run(
            "get", "pods", "-n=shop", "-l=tier=front", "-o=jsonpath={.items[*].metadata.name}"
        ).out
        == "web-two"
    )
    assert lab.run("exec", "-n=shop", "web-one", "--", "echo", "-n=1").out == "-n=1\n"
    assert (
        "no object has this field"
        in lab.run("get", "pods", "-n", "shop", "--sort-by", ".metadata.nmae", status=2).err
    )
    for words in (
        ("-o", "jsonpath={.items[*"),
        ("-o", "jsonpath="),
        ("-o", "xml"),
        ("--sort-by", ".a["),
    ):
        assert lab.run("get", "pods", "-n", "shop", *words, status=2).err


def test_kustomize_folders_can_be_applied_and_deleted(lab: Lab, tmp_path: Path) -> None:
    """-k uses the program kustomize, and reports its errors and its absence."""
    folder, programs = tmp_path / "base", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    (folder / "all.yaml").write_text(SHOP)
    kustomize = programs / "kustomize"
    kustomize.write_text(
        '#!/bin/sh\n[ -f "$2/all.yaml" ] || '
        '{ echo "Error: no kustomization in $2" >&2; exit 1; }\ncat "$2/all.yaml"\n'
    )
    kustomize.chmod(0o755)

    def knl(path: str, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": path}
        return subprocess.run(
            [*COMMAND, *words, "--lab", lab.name],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    lab.up(ONE_NODE)
    path = f"{programs}:/usr/sbin:/sbin:/usr/bin:/bin"
    applied = knl(path, "apply", "-k", str(folder))
    assert (applied.returncode, applied.stdout.splitlines()[0]) == (0, "Namespace shop created")
    assert "unchanged" in knl(path, "up", "-k", str(folder)).stdout
    assert knl(path, "delete", "-k", str(folder)).returncode == 0
    wrong = knl(path, "apply", "-k", str(programs))
    assert (wrong.returncode, "kustomize build: no kustomization in" in wrong.stderr) == (2, True)
    if (
        shutil.which("kubectl", path="/usr/sbin:/sbin") is None
        and shutil.which("kustomize", path="/usr/sbin:/sbin") is None
    ):
        # Only the directories that kubenetlab adds to every search path are left.
        missing = knl(str(tmp_path), "apply", "-k", str(folder))
        assert (
            missing.returncode,
            "-k needs the program kustomize or kubectl" in missing.stderr,
        ) == (1, True)


REAL = """\
apiVersion: v1
kind: Pod
metadata: {name: real, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: x
    command: [sh, -c, "echo begun; exec cat /proc/self/task/1/nothing"]
---
"""


def test_logs_can_be_limited_by_time(lab: Lab) -> None:
    """--since and --since-time work for built-in programs and for processes."""
    lab.run("up", "-f", "-", stdin=ONE_NODE + pod("client") + REAL, status=None)
    for name, line in (("client", "Started HTTP"), ("real", "begun")):
        wait_for(partial(is_logged, lab, name, line), f"the log of {name}")
        assert line in lab.run("logs", name, "--since", "1h").out
        assert line in lab.run("logs", name, "--since-time", "2026-01-01T00:00:00Z").out
        assert lab.run("logs", name, "--since-time", "2199-01-01T00:00:00Z").out == ""
    assert (
        "cannot be combined with"
        in lab.run(
            "logs", "client", "--since", "1h", "--since-time", "2026-01-01T00:00:00Z", status=2
        ).err
    )
    assert (
        "expected a time such as"
        in lab.run("logs", "client", "--since-time", "yesterday", status=1).err
    )
