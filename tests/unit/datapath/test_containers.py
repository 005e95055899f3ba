"""Programs, probes and files of pods."""

from __future__ import annotations

import pytest

from kubenetlab.datapath import plan_probes
from kubenetlab.datapath.contexts import Contexts
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.hoststate.programs import ProgramRun
from tests.clusters import (
    NOW,
    ONLINK,
    pod,
    report,
    running,
    service,
    settled,
    store,
)
from tests.unit.datapath.plans import netns_of, objects_of, planned


@pytest.mark.parametrize(
    ("annotations", "containers", "expected"),
    [
        (
            "",
            "{name: main, image: x, ports: [{containerPort: 9000}, {containerPort: 53, "
            "protocol: UDP}]}",
            "9000/tcp 53/udp",
        ),
        ("", "{name: main, image: x}", "7000/tcp"),
        (
            "",
            "{name: main, image: x, ports: [{containerPort: 9000}]}, {name: side, image: y}",
            "9000/tcp; 7000/tcp",
        ),
        (
            "",
            "{name: main, image: x}, {name: side, image: y, ports: [{containerPort: 7000}]}",
            "; 7000/tcp",
        ),
        ("", "{name: shell, image: busybox}, {name: main, image: x}", "; 7000/tcp"),
        (
            "kubenetlab.dev/listen: 1234/TCP, ",
            "{name: main, image: x, ports: [{containerPort: 9000}]}",
            "1234/tcp",
        ),
        (
            "kubenetlab.dev/listen: '1/UDP,2', ",
            "{name: main, image: agnhost, args: [pause]}, {name: side, image: y}",
            "; 1/udp 2/tcp",
        ),
    ],
)
def test_containers_listen_on_declared_and_target_ports(
    annotations: str, containers: str, expected: str
) -> None:
    """Target ports of Services are used for a container without declared ports.

    The annotation takes precedence.
    """
    meta = f"{{name: a, labels: {{app: web}}, annotations: {{{annotations}}}}}"
    text = (
        f"apiVersion: v1\nkind: Pod\nmetadata: {meta}\nspec: {{containers: [{containers}]}}\n---\n"
    )
    cluster = store(text + service(target=7000))
    runs = objects_of(planned(cluster), netns_of(cluster, "a"), ProgramRun)
    assert "; ".join(" ".join(map(str, run.listeners)) for run in runs) == expected


def test_a_container_in_backoff_is_not_run() -> None:
    """The plan has no program during CrashLoopBackOff, and a new attempt afterwards."""
    from kubenetlab.api.lab import ContainerReport

    cluster = running(store(pod("a")))
    for attempt in (0, 1):
        cluster = report(cluster, "a", ContainerReport(attempt, "failed", 1, "no", NOW), now=NOW)
    assert not objects_of(planned(cluster), netns_of(cluster, "a"), ProgramRun)
    (run,) = objects_of(planned(settled(cluster, NOW + 10)), netns_of(cluster, "a"), ProgramRun)
    assert run.attempt == 2


@pytest.mark.parametrize(
    ("spec", "resolv_conf"),
    [
        (
            "",
            "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver "
            "10.96.0.10\noptions ndots:5\n",
        ),
        (", hostNetwork: true", ""),
        (
            ", hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet",
            "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver "
            "10.96.0.10\noptions ndots:5\n",
        ),
        (
            ", dnsPolicy: None, dnsConfig: {nameservers: [1.2.3.4], searches: [a.b], "
            "options: [{name: ndots, value: '2'}, {name: edns0}]}",
            "search a.b\nnameserver 1.2.3.4\noptions ndots:2 edns0\n",
        ),
        (
            ", dnsConfig: {nameservers: [1.2.3.4], searches: [svc.cluster.local, x.y], "
            "options: [{name: ndots, value: '1'}]}",
            "search default.svc.cluster.local svc.cluster.local cluster.local x.y\n"
            "nameserver 10.96.0.10\nnameserver 1.2.3.4\noptions ndots:1\n",
        ),
    ],
)
def test_resolv_conf_follows_the_dns_policy(spec: str, resolv_conf: str) -> None:
    """Entries of dnsConfig are appended without duplicates."""
    cluster = store(pod("a", spec))
    context = Contexts(cluster, ONLINK, PlanCache()).get(netns_of(cluster, "a"))
    assert context is not None
    assert context.files.resolv_conf == resolv_conf


def test_hosts_has_the_pods_line_and_aliases() -> None:
    """It is `address<tab>fqdn<tab>hostname`, followed by hostAliases."""
    cluster = store(
        pod(
            "a",
            ", hostname: h, subdomain: sub, hostAliases: [{ip: 10.1.2.3, hostnames: "
            "[foo.remote, bar.remote]}]",
        )
    )
    context = Contexts(cluster, ONLINK, PlanCache()).get(netns_of(cluster, "a"))
    assert context is not None
    assert context.files.hostname == "h"
    assert context.files.hosts.splitlines()[0] == "# Kubernetes-managed hosts file."
    assert context.files.hosts.splitlines()[-4:] == [
        "10.244.1.2\th.sub.default.svc.cluster.local\th",
        "",
        "# Entries added by HostAliases.",
        "10.1.2.3\tfoo.remote\tbar.remote",
    ]


def test_probes_follow_the_manifest() -> None:
    """An exec probe of a built-in program becomes a connect; a missing probe becomes a ping."""
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [%s]}\n---\n"
    containers = [
        "{name: c1, image: x, ports: [{name: web, containerPort: 80}], readinessProbe: "
        "{httpGet: {path: /ok, port: web, httpHeaders: [{name: A, value: b}]}}}",
        "{name: c2, image: x, ports: [{containerPort: 81}], readinessProbe: {tcpSocket: "
        "{port: 9}}, livenessProbe: {grpc: {port: 1}}}",
        "{name: c3, image: x, ports: [{containerPort: 82}], readinessProbe: {exec: {command: "
        "[x]}}}",
        "{name: c4, image: x, ports: [{containerPort: 83}]}",
        "{name: c5, image: busybox}",
    ]
    cluster = running(store(text % ", ".join(containers)))
    specs = plan_probes(cluster, ONLINK, PlanCache())[netns_of(cluster, "a")]
    probes = [
        (spec.container, spec.kind, spec.method, spec.port, spec.is_implied) for spec in specs
    ]
    assert probes == [
        ("c1", "readiness", "http", 80, False),
        ("c2", "readiness", "tcp", 9, False),
        ("c2", "liveness", "grpc", 1, False),
        ("c3", "readiness", "tcp", 82, False),
        ("c4", "readiness", "ping", 0, True),
        ("c5", "readiness", "ping", 0, True),
    ]
    assert (specs[0].path, specs[0].headers, specs[0].node_netns, specs[0].address) == (
        "/ok",
        (("A", "b"),),
        "node/worker",
        "10.244.1.2",
    )
