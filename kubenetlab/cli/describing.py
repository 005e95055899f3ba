"""describe: an object's fields, what the cluster says of it, and its events."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kubenetlab.cli.columns import age, pod_status
from kubenetlab.cli.screen import say, table

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client

_WIDTH = 19


def describe_object(client: Client, document: Mapping[str, Any]) -> None:
    """Prints one object."""
    meta = document["metadata"]
    _line("Name", meta["name"])
    if meta.get("namespace"):
        _line("Namespace", meta["namespace"])
    _map("Labels", meta.get("labels", {}))
    _map("Annotations", meta.get("annotations", {}))
    _line("Age", age(meta.get("creationTimestamp")))
    for owner in meta.get("ownerReferences", ()):
        _line("Controlled By", f"{owner['kind']}/{owner['name']}")
    {"Pod": _pod, "Service": _service, "Node": _node}.get(document["kind"], _other)(client, document)
    _events(client, document)


def _line(name: str, value: Any, depth: int = 0) -> None:
    say(f"{'  ' * depth}{(name + ':').ljust(_WIDTH - 2 * depth - 1)} {value}".rstrip())


def _map(name: str, values: Mapping[str, str]) -> None:
    pairs = [f"{key}={value}" for key, value in values.items()] or ["<none>"]
    _line(name, pairs[0])
    for pair in pairs[1:]:
        say(" " * _WIDTH + pair)


def _conditions(document: Mapping[str, Any]) -> None:
    say("Conditions:")
    rows = [
        (condition["type"], condition["status"], condition.get("reason", ""), condition.get("message", ""))
        for condition in document.get("status", {}).get("conditions", ())
    ]
    table(("  TYPE", "STATUS", "REASON", "MESSAGE"), [(f"  {type_}", *rest) for type_, *rest in rows])


def _pod(client: Client, pod: Mapping[str, Any]) -> None:
    status = pod.get("status", {})
    _line("Node", f"{pod['spec'].get('nodeName', '<none>')}/{status.get('hostIP', '')}".rstrip("/"))
    _line("Status", pod_status(pod))
    _line("IPs", ", ".join(entry["ip"] for entry in status.get("podIPs", ())) or "<none>")
    seen: dict[str, Any] = next(
        (
            entry
            for entry in client.get("/apis/kubenetlab.dev/v1alpha1/inspect")["pods"]
            if (entry["namespace"], entry["name"]) == (pod["metadata"]["namespace"], pod["metadata"]["name"])
        ),
        {},
    )
    _line("Sandbox", f"{seen['sandbox']}, pause process {seen['pid']}" if seen.get("pid") else "<none>")
    _line("Node's end", seen.get("host_ifname") or "<none>")
    programs = {container["name"]: container for container in seen.get("containers", ())}
    states = {
        container["name"]: container for field in ("initContainerStatuses", "containerStatuses") for container in status.get(field, ())
    }
    for title, field in (("Init Containers", "initContainers"), ("Containers", "containers")):
        if pod["spec"].get(field):
            say(f"{title}:")
        for container in pod["spec"].get(field, ()):
            is_asked = field == "containers" or container.get("restartPolicy") == "Always"
            _container(container, states.get(container["name"], {}), programs.get(container["name"], {}), is_asked=is_asked)
    _conditions(pod)


def _container(container: Mapping[str, Any], status: Mapping[str, Any], seen: Mapping[str, Any], *, is_asked: bool) -> None:
    """`is_asked` is False for an init container, of which nobody asks whether it is there."""
    from kubenetlab.api.containers import Probe
    from kubenetlab.api.decode import decode
    from kubenetlab.datapath.probes import describe

    say(f"  {container['name']}:")
    _line("Image", container.get("image", ""), 2)
    is_real = bool(seen.get("real"))  # also while it does not run
    if is_real:
        words = shlex.join((*container.get("command", ()), *container.get("args", ())))
        pid = seen.get("pid")
        _line("Program", f"{words} ({f'process {pid}' if pid else 'not running'})", 2)
    else:
        _line("Program", f"built-in {seen['program']}" if seen.get("program") else "<not running>", 2)
        _line("Listening on", ", ".join(str(port) for port in seen.get("ports", ())) or "<nothing>", 2)
    for name, field in (("State", "state"), ("Last State", "lastState")):
        for kind, detail in status.get(field, {}).items():
            _line(name, f"{kind.capitalize()}{': ' + detail['reason'] if detail.get('reason') else ''}", 2)
            if detail.get("message"):
                _line("Message", detail["message"], 3)
            if "exitCode" in detail:
                _line("Exit Code", detail["exitCode"], 3)
    _line("Ready", status.get("ready", False), 2)
    _line("Restart Count", status.get("restartCount", 0), 2)
    for kind in ("Startup", "Readiness", "Liveness") if is_asked else ():
        given = container.get(f"{kind.lower()}Probe")
        probe = decode(given, Probe).value if given is not None else None
        if probe is not None:
            _line(kind, describe(probe, is_real=is_real), 2)
        elif kind == "Readiness":
            own = "a ping" if is_real else "a connect to its first port, or a ping"
            _line(kind, f"{own}: the lab's own question", 2)


def _service(client: Client, service: Mapping[str, Any]) -> None:
    spec = service["spec"]
    _map("Selector", spec.get("selector", {}))
    _line("Type", spec.get("type", "ClusterIP"))
    _line("IPs", ", ".join(spec.get("clusterIPs", ())) or spec.get("clusterIP", "<none>"))
    outside = [entry["ip"] for entry in service.get("status", {}).get("loadBalancer", {}).get("ingress", ())]
    if outside:
        _line("Load balancer", ", ".join(outside))
    seen: dict[str, Any] = next(
        (
            entry
            for entry in client.get("/apis/kubenetlab.dev/v1alpha1/inspect")["services"]
            if (entry["namespace"], entry["name"]) == (service["metadata"]["namespace"], service["metadata"]["name"])
        ),
        {},
    )
    for port in spec.get("ports", ()):
        _line(
            "Port",
            f"{port.get('name', '<unset>')}  {port['port']}/{port.get('protocol', 'TCP')}  →  {port.get('targetPort', port['port'])}",
        )
    say("Endpoints:")
    rows = [
        (f"  {entry['address']}", str(entry["port"]), entry["node"] or "", "ready" if entry["ready"] else "not ready")
        for entry in seen.get("endpoints", ())
    ]
    table(("  ADDRESS", "PORT", "NODE", "STATE"), rows or [("  <none>", "", "", "connections are rejected")])


def _node(client: Client, node: Mapping[str, Any]) -> None:
    for entry in node.get("status", {}).get("addresses", ()):
        _line(entry["type"], entry["address"])
    _line("PodCIDR", node["spec"].get("podCIDR", ""))
    taints = [f"{taint['key']}={taint.get('value', '')}:{taint['effect']}".replace("=:", ":") for taint in node["spec"].get("taints", ())]
    _line("Taints", ", ".join(taints) or "<none>")
    _conditions(node)
    pods = [pod for pod in client.get("/api/v1/pods")["items"] if pod["spec"].get("nodeName") == node["metadata"]["name"]]
    say("Pods:")
    table(
        ("  NAMESPACE", "NAME", "STATUS", "IP"),
        [
            (f"  {pod['metadata']['namespace']}", pod["metadata"]["name"], pod_status(pod), pod.get("status", {}).get("podIP", ""))
            for pod in pods
        ],
    )


def _other(client: Client, document: Mapping[str, Any]) -> None:
    from kubenetlab.cli.screen import data

    rest = {key: value for key, value in document.items() if key not in ("metadata", "apiVersion")}
    data(rest, "yaml")


def _events(client: Client, document: Mapping[str, Any]) -> None:
    uid = document["metadata"].get("uid")
    found = [event for event in client.get("/api/v1/events")["items"] if event["involvedObject"].get("uid") == uid]
    say("Events:" if found else "Events:           <none>")
    if found:
        table(
            ("  TYPE", "REASON", "AGE", "FROM", "MESSAGE"),
            [
                (
                    f"  {event.get('type', 'Normal')}",
                    event.get("reason", ""),
                    age(event.get("lastTimestamp")),
                    event.get("source", {}).get("component", ""),
                    event.get("message", ""),
                )
                for event in found
            ],
        )
