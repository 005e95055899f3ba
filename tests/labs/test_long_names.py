"""The longest names that Kubernetes permits, for all objects."""

from __future__ import annotations

import os
import signal

from tests.labs.lab import Lab

LABEL = "abcdefghijklmnopqrstuvwxyz-0123456789-abcdefghijklmnopqrstuvwxyz"[:63]
SUBDOMAIN = ".".join((LABEL, LABEL, LABEL, LABEL[:61]))
NAMESPACE, SERVICE, PORT, CONTAINER, HOSTNAME = (f"{letter}{LABEL[1:]}" for letter in "nspch")
NODE, HOST, POD, DEPLOYMENT = (f"{letter}{SUBDOMAIN[1:]}" for letter in "wepd")
MANIFEST = f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes:
- {{role: control-plane}}
- {{role: worker, name: {NODE}}}
- {{role: worker, name: {NODE[:-1]}x}}
external:
- {{name: {HOST}, address: 198.51.100.20, ports: [80]}}
- {{name: {HOST[:-1]}x, address: 198.51.100.21}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {POD}, namespace: {NAMESPACE}, labels: {{{SUBDOMAIN}/{LABEL}: {LABEL}}}}}
spec:
  hostname: {HOSTNAME}
  subdomain: {SERVICE}
  containers:
  - name: {CONTAINER}
    image: agnhost
    args: [netexec, --http-port=80, --udp-port=81]
    ports: [{{name: fifteen-letters, containerPort: 80}}]
  - {{name: {CONTAINER[:-1]}x, image: coredns}}
---
apiVersion: v1
kind: Service
metadata: {{name: {SERVICE}, namespace: {NAMESPACE}}}
spec:
  selector: {{{SUBDOMAIN}/{LABEL}: {LABEL}}}
  sessionAffinity: ClientIP
  ports:
  - {{name: {PORT}, port: 65535, targetPort: fifteen-letters}}
  - {{name: {PORT[:-1]}x, port: 65534, protocol: UDP, targetPort: 81}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {DEPLOYMENT}, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: {LABEL}}}}}
  template:
    metadata: {{labels: {{app: {LABEL}}}}}
    spec: {{containers: [{{name: {CONTAINER}, image: agnhost, args: [netexec]}}]}}
"""


def test_a_lab_works_with_the_longest_names(lab: Lab) -> None:
    """Its pods run, survive a kill of the agent, are reachable, and have logs."""
    lab.up(MANIFEST)
    (pod,) = lab.pods(POD, NAMESPACE)
    pids = [entry["pid"] for entry in lab.inspected["pods"]]
    os.kill(lab.inspected["agent_pid"], signal.SIGKILL)
    assert [entry["pid"] for entry in lab.inspected["pods"]] == pids
    assert lab.run("ping", "-o", "json").json["ok"]
    (answer,) = lab.ask(
        lab.place("nodes", NODE), ("TCP", lab.service(SERVICE, NAMESPACE)["cluster_ips"][0], 65535)
    )
    assert answer.server == HOSTNAME
    assert "/hostname from" in lab.run("logs", f"{NAMESPACE}/{POD}", "-c", CONTAINER).out
    assert "CoreDNS" in lab.run("logs", f"{NAMESPACE}/{POD}", "-c", f"{CONTAINER[:-1]}x").out
    assert lab.run("exec", f"{NAMESPACE}/{POD}", "--", "hostname").out.strip() == HOSTNAME
    assert lab.inside(pod, "ip", "-o", "link", "show", "eth0").count("alias cni bridge: pod n") == 1
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
    names = lab.live_netns_names()
    assert (
        len(names)
        == len(lab.inspected["nodes"])
        + len(lab.inspected["pods"])
        + len(lab.inspected["external"])
        + 3
    )
