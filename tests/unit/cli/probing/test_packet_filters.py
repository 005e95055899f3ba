"""Options --node and --pod of `flows` and `policy log`: known names, and suggestions."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.cli.probing.packet_filters import running_nodes, selected_nodes, selected_pods
from kubenetlab.errors import UsageError
from tests.unit.observe.documents import SEEN

SEEN_: Any = SEEN


def names(nodes: Any) -> list[str]:
    return [node["name"] for node in nodes]


def test_a_node_is_selected_by_its_name_with_or_without_its_kind() -> None:
    seen: Any = {**SEEN_, "nodes": [{"name": "a"}, {"name": "b"}]}
    assert names(selected_nodes(seen, None)) == ["a", "b"]
    for text in ("b", "node:b"):
        assert names(selected_nodes(seen, text)) == ["b"]


def test_an_unknown_node_is_refused_with_a_suggestion() -> None:
    node = SEEN_["nodes"][-1]["name"]
    with pytest.raises(UsageError) as caught:
        selected_nodes(SEEN_, f"{node}x")
    assert f'--node: there is no node "{node}x"; did you mean {node}?; known: ' in str(caught.value)


def test_nodes_that_do_not_run_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    nodes: Any = [{"name": "a", "netns": None}, {"name": "b", "netns": "/proc/1/ns/net"}]
    assert names(running_nodes(nodes)) == ["b"]
    assert capsys.readouterr().err == "not read: node a does not run\n"


def test_a_pod_is_selected_by_its_name() -> None:
    pod = SEEN_["pods"][0]
    title = f"{pod['namespace']}/{pod['name']}"
    assert selected_pods(SEEN_, None, None) is None
    assert selected_pods(SEEN_, title, None) == frozenset({title})
    assert selected_pods(SEEN_, pod["name"], pod["namespace"]) == frozenset({title})


@pytest.mark.parametrize("name", ["ext:client", f"node:{SEEN_['nodes'][0]['name']}"])
def test_only_pods_can_be_selected(name: str) -> None:
    """Another target would filter out every packet."""
    with pytest.raises(UsageError, match="--pod: expected a pod"):
        selected_pods(SEEN_, name, None)


def test_an_unknown_pod_is_refused_with_a_suggestion() -> None:
    pod = SEEN_["pods"][0]
    with pytest.raises(UsageError, match=f"did you mean .*{pod['name']}"):
        selected_pods(SEEN_, f"{pod['name']}x", pod["namespace"])
