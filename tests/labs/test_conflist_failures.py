"""CNI plugins that fail, and lists with mistakes."""

from __future__ import annotations

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
