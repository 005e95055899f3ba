"""Reasons for a Service without ready endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.observe.emptiness import explain_empty

WANTING: dict[str, Any] = {
    "metadata": {"namespace": "default", "name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
}


WEB_POD: dict[str, Any] = {
    "metadata": {"namespace": "default", "name": "a", "labels": {"app": "web", "x": "y"}},
    "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


@pytest.mark.parametrize(
    ("changes", "pods", "said"),
    [
        (
            {"selector": {}},
            [WEB_POD],
            "it has no selector: its EndpointSlices are created manually",
        ),
        (
            {"selector": {"app": "wbe"}},
            [WEB_POD],
            "no pod has the labels app=wbe; did you mean app=web?",
        ),
        (
            {},
            [{**WEB_POD, "metadata": {**WEB_POD["metadata"], "namespace": "shop"}}],
            "no pod has the labels app=web",
        ),
        ({}, [{**WEB_POD, "status": {}}], "1 pod matches app=web, and it is not ready"),
        ({}, [{**WEB_POD, "status": {}}] * 2, "2 pods match app=web, and none is ready"),
        (
            {"ports": [{"port": 80, "targetPort": "htpp"}]},
            [WEB_POD] * 2,
            "2 pods match app=web, and no container has a TCP port of the name htpp; did you "
            "mean http?",
        ),
        (
            {"ports": [{"port": 80, "targetPort": "grpc"}]},
            [WEB_POD],
            "1 pod matches app=web, and no container has a TCP port of the name grpc; TCP "
            "ports: http",
        ),
        (
            {"ports": [{"port": 53, "protocol": "UDP", "targetPort": "http"}]},
            [WEB_POD],
            "1 pod matches app=web, and no container has a UDP port of the name http",
        ),
        ({}, [WEB_POD], ""),
    ],
)
def test_reasons_for_a_service_without_ready_endpoints(
    changes: dict[str, Any], pods: list[Any], said: str
) -> None:
    """Its selector and its ports are compared with the pods."""
    assert explain_empty({**WANTING, "spec": {**WANTING["spec"], **changes}}, pods) == said
