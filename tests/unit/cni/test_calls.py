"""Attaching pods: repeated, interrupted and useless calls."""

from __future__ import annotations

import pytest

from kubenetlab.cni import calls
from kubenetlab.cni.calls import AttachedPod, NodePlugins
from kubenetlab.cni.capabilities import PodSandbox
from kubenetlab.cni.failures import CniError, Outcome
from kubenetlab.cni.runtime import Runtime
from tests.unit.cni.fakes import FIRST, Memory, Plugins, failing, network

POD = PodSandbox("abc", "/proc/7/ns/net", "default", "web", "uid")


def attach(plugins: Plugins, store: Memory, *, is_retry: bool = False) -> AttachedPod:
    return calls.attach(Runtime(plugins, store), network(), POD, is_retry=is_retry)


def test_a_pod_is_attached_once() -> None:
    """The second caller gets the kept result; no plugin is called again."""
    plugins, store = Plugins(bridge=FIRST, portmap=FIRST), Memory()
    assert attach(plugins, store) == AttachedPod(("10.1.0.5",), "")
    calls_before = list(plugins.called)
    assert attach(plugins, store, is_retry=True) == AttachedPod(("10.1.0.5",), "")
    assert plugins.called == calls_before == ["ADD bridge", "ADD portmap"]


def test_a_retry_begins_with_a_cleanup() -> None:
    """Plugins may refuse ADD while state of an interrupted call exists; errors are ignored."""
    plugins = Plugins(bridge=FIRST, portmap=FIRST)
    attach(plugins, Memory(), is_retry=True)
    assert plugins.called == ["DEL portmap", "DEL bridge", "ADD bridge", "ADD portmap"]
    plugins = Plugins(bridge=failing(999, "cannot undo", on="DEL"), portmap=FIRST)
    with pytest.raises(CniError, match=r"\(add\)"):  # the fake has no result of ADD
        attach(plugins, Memory(), is_retry=True)


def test_the_nodes_end_is_the_last_link_of_the_node() -> None:
    """The plugin bridge lists the bridge before the pod's port."""
    interfaces = [{"name": "cni0"}, {"name": "veth7"}, *FIRST["interfaces"]]
    answer = FIRST | {"interfaces": interfaces, "ips": [{"address": "10.1.0.5/24", "interface": 2}]}
    plugins = Plugins(bridge=answer, portmap=answer)
    assert attach(plugins, Memory()) == AttachedPod(("10.1.0.5",), "veth7")


def test_a_result_without_an_address_is_a_failure() -> None:
    """As in containerd; the plugins undo their work."""
    plugins, store = Plugins(bridge=FIRST, portmap={"cniVersion": "1.0.0"}), Memory()
    with pytest.raises(CniError, match='failed to find network info for sandbox "abc"'):
        attach(plugins, store)
    assert plugins.called[-2:] == ["DEL portmap", "DEL bridge"]
    assert store.files == {}


def test_the_kubelets_message() -> None:
    """Known codes are explained behind the plugin's own words."""
    plugins = Plugins(bridge=Outcome(b'{"code": 11, "msg": "busy"}', exit_status=1), portmap=FIRST)
    with pytest.raises(CniError) as raised:
        attach(plugins, Memory())
    assert calls.sandbox_failure("abc", raised.value) == (
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for"
        ' sandbox "abc": plugin type="bridge" failed (add): busy (code 11: the plugin asks for'
        " another try later)"
    )


def test_check_calls_each_plugin_with_the_result_of_add() -> None:
    """A list before 0.4.0 has no CHECK: no plugin is called."""
    plugins, store = Plugins(bridge=FIRST, portmap=FIRST), Memory()
    attach(plugins, store)
    plugins.answers["bridge"] = failing(107, "link is gone", on="CHECK")
    with pytest.raises(CniError) as raised:
        calls.check(Runtime(plugins, store), network(), POD)
    assert raised.value.explained == (
        'plugin type="bridge" failed (check): link is gone (code 107)'
    )
    assert plugins.called[2:] == ["CHECK bridge"]
    calls.check(Runtime(plugins, store), network("0.3.1"), POD)
    assert plugins.called[3:] == []


def test_an_invalid_annotation_is_a_failure() -> None:
    """The kubelet refuses the sandbox before any plugin is called."""
    pod = PodSandbox("abc", "", annotations={"kubernetes.io/egress-bandwidth": "fast"})
    with pytest.raises(CniError, match="expected a rate such as 10M"):
        calls.arguments_of(pod)


def test_an_invalid_list_is_a_failure() -> None:
    """It is checked when the manifest is loaded; this is the last resort."""
    with pytest.raises(CniError, match="the list has no `name`"):
        _ = NodePlugins({"plugins": [{"type": "bridge"}]}, (), 1).network
