"""Manifests of the labs that are measured."""

from __future__ import annotations

PODS_OF_A_SERVICE = 20
PODS_OF_A_NODE = 100
COREDNS = 2

CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{nodes}]
"""
DEPLOYMENT = """\
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: web
        image: agnhost
        args: [netexec]
        ports: [{{name: http, containerPort: 8080}}]
{probe}---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: http}}]}}
"""
PROBE = """\
        readinessProbe: {httpGet: {path: /healthz, port: http}}
"""
SERVER = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{nodeName: {node}, containers: [{{name: idle, image: agnhost, args: [pause]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: echo, port: {echo}, targetPort: {echo}}}
  - {{name: sink, port: {sink}, targetPort: {sink}}}
"""

MESH = """\
---
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  {fields}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: main, image: example/app, ports: [{ports}]}}]}}
"""
DENIED = """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: even}
spec:
  podSelector:
    matchExpressions:
    - {key: statefulset.kubernetes.io/pod-name, operator: In, values: [NAMES]}
"""


def workers_of(pods: int) -> int:
    """Return the number of workers: a kubelet runs 110 pods, and CoreDNS needs room, too."""
    return max(1, -(-pods // PODS_OF_A_NODE))


def system_pods(workers: int) -> int:
    """Return the number of system pods: CoreDNS', and a kube-proxy on each node (hostNetwork)."""
    return COREDNS + workers + 1


def services_of(pods: int) -> int:
    return -(-pods // PODS_OF_A_SERVICE)


def many(
    pods: int, workers: int | None = None, services: int | None = None, *, has_probes: bool = True
) -> str:
    """Return a manifest of `pods` pods in Deployments with a Service each.

    System pods are not included. `has_probes` adds a readiness probe to each pod.
    """
    workers, services = workers or workers_of(pods), services or services_of(pods)
    nodes = ", ".join(["{role: control-plane}", *["{role: worker}"] * workers])
    sizes = [pods // services + (number < pods % services) for number in range(services)]
    return CLUSTER.format(nodes=nodes) + "".join(
        DEPLOYMENT.format(name=f"web{number}", replicas=replicas, probe=PROBE if has_probes else "")
        for number, replicas in enumerate(sizes)
    )


def paths(echo: int, sink: int) -> str:
    """Return a client, and one server with a Service on its node and one on another node.

    The containers do not listen; the benchmark starts its servers in the pods.
    """
    nodes = "{role: control-plane}, {role: worker, name: n1}, {role: worker, name: n2}"
    servers = [
        SERVER.format(name=name, node=node, echo=echo, sink=sink)
        for name, node in (("client", "n1"), ("near", "n1"), ("far", "n2"))
    ]
    return CLUSTER.format(nodes=nodes) + "".join(servers)


def pod_on_each_node(nodes: int) -> str:
    """Return a manifest of `nodes` workers with one pod each."""
    names = [f"n{number}" for number in range(nodes)]
    workers = "".join(f", {{role: worker, name: {name}}}" for name in names)
    pods = (
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod_of_node(number)}}}\n"
        f"spec: {{nodeName: {name}, containers: [{{name: idle, image: agnhost, args: [pause]}}]}}\n"
        for number, name in enumerate(names)
    )
    return CLUSTER.format(nodes=f"{{role: control-plane}}{workers}") + "".join(pods)


def pod_of_node(number: int) -> str:
    """Return the name of the pod on a node of `pod_on_each_node`."""
    return f"p{number}"


def ports(count: int) -> list[tuple[int, str]]:
    """Return ports with their protocols, which alternate between TCP and UDP."""
    return [(8000 + number, "UDP" if number % 2 else "TCP") for number in range(count)]


def mesh(clients: int, servers: int, count: int, *, is_denied: bool) -> str:
    """Return a lab with clients, and servers that listen on `count` ports.

    is_denied: a policy isolates the servers with an even number.
    """
    nodes = "{role: control-plane}, {role: worker}, {role: worker}"
    declared = ", ".join(
        f"{{containerPort: {port}, protocol: {protocol}}}" for port, protocol in ports(count)
    )
    text = CLUSTER.format(nodes=nodes)
    text += MESH.format(
        kind="Deployment", name="client", replicas=clients, fields="", ports=declared
    )
    text += MESH.format(
        kind="StatefulSet",
        name="server",
        replicas=servers,
        fields="serviceName: server\n  podManagementPolicy: Parallel",
        ports=declared,
    )
    even = ", ".join(f"server-{number}" for number in range(0, servers, 2))
    return text + (DENIED.replace("NAMES", even) if is_denied else "")
