"""CNI plugins that fail, and lists with mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.plugin_lists import (
    BRIDGE,
    ERROR,
    THREE,
    cluster,
    configuration,
    failure,
    leases,
    log_of,
    needs_plugins,
    plugin,
    pods,
)


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
        ("kill -SEGV $$", "netplugin failed with no error message: signal 11"),
        ("yes", 'netplugin wrote too much and was killed: "y'),
        (
            """echo '{"cniVersion": "9.0.0", "ips": [{"address": "10.7.0.5/24"}]}'""",
            'unsupported CNI result version "9.0.0"',
        ),
        (
            """echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.7.0.5/33"}]}'""",
            "'10.7.0.5/33' does not appear to be an IPv4 or IPv6 interface",
        ),
        ("(sleep 1000; echo late) & exit 1", "netplugin failed with no error message"),
    ],
    ids=[
        "error",
        "rubbish",
        "hangs",
        "no address",
        "stderr",
        "signal",
        "endless output",
        "version of the result",
        "invalid address",
        "process in the background",
    ],
)
def test_a_failing_plugin_is_an_event(lab: Lab, tmp_path: Path, script: str, message: str) -> None:
    """The pod stays ContainerCreating; pods in the node's network run, and the lab answers."""
    host_pod = THREE.split("---")[1].replace("nodeName", "hostNetwork: true, nodeName")
    mode = plugin(tmp_path, script) | {"timeout": 1}
    manifest = cluster(mode) + pods(("a", "worker"))
    result = lab.run("up", "-f", "-", "--timeout", "3", stdin=manifest, status=1)
    assert re.search(r"not ready: default/a\b.*: FailedCreatePodSandBox", result.err), result.err
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


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"#!/bin/sh\n", 0o644, "/own: Permission denied"),
        (b"\x7fELF rubbish", 0o755, "/own: Exec format error"),
        (b"#!/nowhere/sh\n", 0o755, "/own: No such file or directory"),
    ],
    ids=["not executable", "no program", "no interpreter"],
)
def test_a_program_that_cannot_start_is_an_event(
    lab: Lab, tmp_path: Path, content: bytes, mode: int, message: str
) -> None:
    """The message names the cause."""
    cni = plugin(tmp_path, "")
    (tmp_path / "own").write_bytes(content)
    (tmp_path / "own").chmod(mode)
    manifest = cluster(cni) + pods(("a", "worker"))
    lab.run("up", "-f", "-", "--timeout", "2", stdin=manifest, status=1)
    text = wait_for(lambda: failure(lab, "a"), "the event")
    assert "cannot start the plugin: " in text
    assert message in text


def test_a_plugin_that_hangs_on_one_node_does_not_delay_the_others(
    lab: Lab, tmp_path: Path
) -> None:
    """Slots of calls that take long are given to other nodes."""
    answer = """echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.7.0.5/24"}]}'"""
    script = f"case $CNI_ARGS in *K8S_POD_NAME=a*) sleep 1000 ;; esac; {answer}"
    hanging = pods(*((f"a{number}", "worker") for number in range(9)))
    mode = plugin(tmp_path, script) | {"timeout": 600}
    manifest = cluster(mode) + hanging + pods(("b", "worker2"))
    lab.run("up", "-f", "-", "--timeout", "1", stdin=manifest, status=1)
    wait_for(lambda: lab.pod("b")["addresses"], "the pod of the other node", within_s=15)
    assert not lab.pod("a0")["addresses"]


def test_a_missing_plugin_is_an_event(lab: Lab) -> None:
    """The message names the directories that were searched."""
    mode = configuration({"type": "calico"}, binDirs=["/opt/none"])
    lab.run("up", "-f", "-", "--timeout", "2", stdin=cluster(mode) + THREE, status=1)
    text = wait_for(lambda: failure(lab, "a"), "the event")
    assert 'failed to find plugin "calico" in path [/opt/none]' in text


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
        (
            configuration({"type": "ptp", "ipam": {"subnet": "usePodCidrIPv6"}}),
            "networking.cni.conflist: usePodCidrIPv6: the node has no IPv6 range of pod addresses",
        ),
    ],
    ids=["type", "file", "template", "json", "directory", "family"],
)
def test_mistakes_are_found_before_anything_is_made(
    lab: Lab, mode: dict[str, Any], message: str
) -> None:
    """With the path of the field."""
    refused = lab.run("up", "-f", "-", stdin=cluster(mode) + THREE, status=2)
    assert message in refused.err
    assert not lab.directory.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "  the file is empty"),
        ('{"cniVersion": "1.0.0",\n "name": "x"\n "plugins": []}', ":3  did not find expected"),
        ('{"cniVersion": "1.0.0",\n "plugins": []}', ":1  the list has no `name`"),
        (
            '{"cniVersion": "1.0.0",\n"name": "x",\n"plugins": []}',
            ":3  plugins: expected a list of plugins, found an empty list",
        ),
        (
            '{"cniVersion": "1.0.0",\n"name": "../x",\n"plugins": [{"type": "ptp"}]}',
            ":2  name: expected letters, digits",
        ),
        (
            '{"cniVersion": "1.0.0",\n"name": "x",\n"plugins": [\n{"type": "../ptp"}]}',
            ":4  plugins[0].type: expected the name of a plugin without `/`",
        ),
        (
            '{"cniVersion": "2.0.0",\n"name": "x",\n"plugins": [{"type": "ptp"}]}',
            ":1  cniVersion: expected a version from 0.3.0 to 1.1.0, found 2.0.0",
        ),
        ("[1]", ":1  expected a CNI configuration list, found a list"),
        ("{{range}}", "  the template's {{range}} is not known"),
        ('{"type": "ptp", "cniVersion": "1.0.0"}', ":1  the list has no `name`"),
    ],
    ids=[
        "empty",
        "syntax",
        "no-name",
        "no-plugins",
        "name",
        "slash",
        "version",
        "list",
        "template",
        "single",
    ],
)
def test_mistakes_in_a_file_have_its_lines(
    lab: Lab, tmp_path: Path, text: str, message: str
) -> None:
    """They are found before anything is made."""
    path = tmp_path / "10-net.conflist"
    path.write_text(text)
    refused = lab.run("up", "--cni", f"conflist,file={path}", status=2)
    assert f"{path}{message}" in refused.err
    assert not lab.directory.exists()


def test_unknown_fields_and_capabilities_are_warnings(lab: Lab) -> None:
    """The specification lets lists have further fields, and plugins further capabilities."""
    mode = configuration({"type": "ptp", "capabilities": {"portMapings": True}})
    mode["conflist"]["owner"] = "me"
    shown = lab.run("plan", "-f", "-", stdin=cluster(mode) + THREE)
    assert "no value for this capability; did you mean portMappings?" in shown.err
    assert "owner: unknown field of a CNI configuration list" in shown.err
