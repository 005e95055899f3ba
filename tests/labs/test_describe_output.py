"""Output of `describe` and `inspect` for the objects of the quickstart."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """Yield the quickstart."""
    for lab in new_lab():
        lab.run("up")
        yield lab


def test_describe_shows_fields_conditions_endpoints_and_events(running: Lab) -> None:
    """The kinds are Pod, Service, Node and Deployment."""
    pod = running.run("describe", "pod", "client").out
    for part in (
        "Name: ",
        "Node: ",
        "Sandbox: ",
        "Listening on:  8080, 8081",
        "Readiness: ",
        "Successfully assigned default/client to",
    ):
        assert part in pod
    web = running.pods("web")
    service = running.run("describe", "svc/web").out
    assert all(entry["addresses"][0] in service for entry in web)
    node = running.run("describe", "node", "control-plane").out
    assert "node-role.kubernetes.io/control-plane:NoSchedule" in node
    assert "coredns-" in node
    deployment = running.run("describe", "deployment", "web").out
    for part in (
        "Replicas:          3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
        "25% max surge",
        "(3/3 replicas created)",
    ):
        assert part in deployment
    assert all(f"  {entry['name']} " in deployment for entry in web)


def test_inspect_has_the_documented_fields(running: Lab) -> None:
    """Other programs rely on the document.

    Each path in it refers to a different namespace.
    """
    inspected = running.inspected
    assert inspected["lab"] == running.name
    assert set(inspected) >= {
        "lab",
        "init_pid",
        "agent_pid",
        "nodes",
        "pods",
        "external",
        "services",
    }
    for pod in inspected["pods"]:
        assert set(pod) >= {
            "namespace",
            "name",
            "node",
            "pid",
            "netns",
            "addresses",
            "host_ifname",
            "phase",
            "ready",
            "containers",
        }
    for service in inspected["services"]:
        assert set(service) >= {
            "namespace",
            "name",
            "type",
            "cluster_ips",
            "load_balancer_ips",
            "external_ips",
            "ports",
            "endpoints",
        }
    places = [
        *inspected["nodes"],
        *(pod for pod in inspected["pods"] if not pod["host_network"]),
        *inspected["external"],
    ]
    assert len({os.stat(place["netns"]).st_ino for place in places}) == len(places)
    for place in places:
        assert place["addresses"][0] in running.inside(place, "ip", "-o", "-4", "addr")
    text = running.run("inspect", "client").out
    assert "veth eth0" in text
    assert "table ip kube-proxy" in running.run("inspect", "node:worker").out


SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: api.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: bodiless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: mistaken}
spec:
  type: LoadBalancer
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: htpp}]
"""


def test_describe_explains_each_type_of_service(running: Lab) -> None:
    """It shows the fields, the addresses, and the reason for missing endpoints."""
    running.apply(SERVICES)
    try:
        elsewhere = running.run("describe", "svc", "elsewhere").out
        assert "External Name:     api.example.com\n" in elsewhere
        assert "rejected" not in elsewhere
        mistaken = running.run("describe", "svc", "mistaken").out
        for part in (
            "IP Families:       IPv4 (SingleStack)",
            "Load balancer:     203.0.113.",
            "External policy:   Local",
            "Health check:      node port 3",
            "Affinity:          ClientIP, for 10800 s",
        ):
            assert part in mistaken
        assert (
            "<none>  connections are rejected: 3 pods match app=web, "
            "and no container has a TCP port of the name htpp" in mistaken
        )
        assert (
            "headless, DNS answers with the endpoints"
            in running.run("describe", "svc", "bodiless").out
        )
        for name, description in (("elsewhere", "of type ExternalName"), ("bodiless", "headless")):
            errors = running.run("ping", "client", f"svc:{name}", status=2).err
            assert (
                f"Service default/{name} is {description}, it has no address of its own; "
                f"use its name: kubenetlab ping SRC {name}.default" in errors
            )
        assert "--tcp 8080" in errors
        assert "answered" in running.run("ping", "client", "bodiless.default", "--tcp", "8080").out
    finally:
        running.run("delete", "svc", "elsewhere", "bodiless", "mistaken")
