"""The columns of `get`, kind by kind, as kubectl has them.

Source: k8s.io/kubernetes pkg/printers/internalversion/printers.go (1.33).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from kubenetlab.api.pods import READY_ANNOTATION
from kubenetlab.cli.terminal.screen import BAD, GOOD, MILD, paint

Document = Mapping[str, Any]
Column = tuple[str, Callable[[Document], str], bool]
"""(heading, text, only with -o wide)"""


def header(kind: str, *, is_wide: bool) -> list[str]:
    """The headings for a kind."""
    return [heading for heading, _, wide_only in _columns_of(kind) if is_wide or not wide_only]


def columns(kind: str, document: Document, *, is_wide: bool) -> list[str]:
    """The cells of one object."""
    return [text(document) for _, text, wide_only in _columns_of(kind) if is_wide or not wide_only]


def age(stamp: str | None) -> str:
    """How long ago: `5s`, `3m10s`, `2h`, `4d`."""
    return (
        short_age(time.time() - datetime.fromisoformat(stamp).timestamp()) if stamp else "<unknown>"
    )


def short_age(seconds_: float) -> str:
    """Return a length of time as kubectl shows it: `5s`, `3m10s`, `2h`, `4d`. Source: k8s.io/apimachinery pkg/util/duration."""
    seconds = max(0, int(seconds_))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 48 * 3600 else f"{seconds // 86400}d"


def pod_status(document: Document) -> str:
    """The word in STATUS: the phase, or what keeps a container from running."""
    status = document.get("status", {})
    if document["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if word := _initializing(document):
        return word
    word = str(status.get("reason") or status.get("phase", "Pending"))
    if any(
        one["type"] == "PodScheduled" and one.get("reason") == "SchedulingGated"
        for one in status.get("conditions", ())
    ):
        return "SchedulingGated"
    for container in status.get("containerStatuses", ()):
        state = container.get("state", {})
        if "waiting" in state and state["waiting"].get("reason"):
            word = str(state["waiting"]["reason"])
        elif "terminated" in state:
            word = str(
                state["terminated"].get("reason") or f"ExitCode:{state['terminated']['exitCode']}"
            )
    return word


def _initializing(document: Document) -> str:
    """`Init:1/3`, `Init:CrashLoopBackOff` …: how far the init containers have come; nothing once they are past."""
    given = document.get("spec", {}).get("initContainers", ())
    known = {
        container["name"]: container
        for container in document.get("status", {}).get("initContainerStatuses", ())
    }
    for index, container in enumerate(given):
        status = known.get(container["name"], {})
        state = status.get("state", {})
        ended = state.get("terminated")
        if (ended is not None and ended["exitCode"] == 0) or (
            _is_sidecar(container) and status.get("started")
        ):
            continue
        if ended is not None:
            return f"Init:{ended.get('reason') or 'ExitCode:' + str(ended['exitCode'])}"
        waiting = state.get("waiting", {}).get("reason", "")
        return (
            f"Init:{waiting}"
            if waiting not in ("", "PodInitializing", "ContainerCreating")
            else f"Init:{index}/{len(given)}"
        )
    return ""


def _is_sidecar(container: Document) -> bool:
    return container.get("restartPolicy") == "Always"


def _name(document: Document) -> str:
    return str(document["metadata"]["name"])


def _age(document: Document) -> str:
    return age(document["metadata"].get("creationTimestamp"))


def _spec(document: Document, field: str, default: Any = "") -> Any:
    return document.get("spec", {}).get(field, default)


def _status(document: Document, field: str, default: Any = "") -> Any:
    return document.get("status", {}).get(field, default)


def _pod_ready(document: Document) -> str:
    sidecars = {
        container["name"]
        for container in _spec(document, "initContainers", ())
        if _is_sidecar(container)
    }
    counted = [
        status
        for status in _status(document, "initContainerStatuses", ())
        if status["name"] in sidecars
    ]
    counted += _status(document, "containerStatuses", ())
    return f"{sum(status.get('ready', False) for status in counted)}/{len(_spec(document, 'containers', ())) + len(sidecars)}"


def _pod_status(document: Document) -> str:
    word = pod_status(document)
    colour = {
        "Running": GOOD,
        "Completed": GOOD,
        "Succeeded": GOOD,
        "Pending": MILD,
        "SchedulingGated": MILD,
        "ContainerCreating": MILD,
        "Terminating": MILD,
    }.get(word, BAD)
    return paint(word, MILD if word.startswith("Init:") and "/" in word else colour)


def _restarts(document: Document) -> str:
    containers = [
        *_status(document, "initContainerStatuses", ()),
        *_status(document, "containerStatuses", ()),
    ]
    count = sum(container.get("restartCount", 0) for container in containers)
    last = max(
        (
            container.get("lastState", {}).get("terminated", {}).get("finishedAt", "")
            for container in containers
        ),
        default="",
    )
    return f"{count} ({age(last)} ago)" if count and last else str(count)


def _ports(document: Document) -> str:
    ports = _spec(document, "ports", ())
    shown = (
        f"{port['port']}{':' + str(port['nodePort']) if port.get('nodePort') else ''}/{port.get('protocol', 'TCP')}"
        for port in ports
    )
    return ",".join(shown) or "<none>"


def _readiness_gates(document: Document) -> str:
    """How many of a pod's own conditions hold; the annotation that makes it unready on purpose counts as one."""
    gates = [gate["conditionType"] for gate in _spec(document, "readinessGates", ())]
    gates += (
        [READY_ANNOTATION]
        if document["metadata"].get("annotations", {}).get(READY_ANNOTATION) == "false"
        else []
    )
    held = {
        condition["type"]
        for condition in _status(document, "conditions", ())
        if condition["status"] == "True"
    }
    return f"{sum(gate in held for gate in gates)}/{len(gates)}" if gates else "<none>"


def _ingress(service: Document) -> Sequence[Document]:
    found: Sequence[Document] = service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    return found


def labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as kubectl's column LABELS has them."""
    return ",".join(f"{key}={value}" for key, value in labels.items()) or "<none>"


def _node_status(document: Document) -> str:
    ready = next(
        (
            condition["status"]
            for condition in _status(document, "conditions", ())
            if condition["type"] == "Ready"
        ),
        "Unknown",
    )
    word = paint("Ready", GOOD) if ready == "True" else paint("NotReady", BAD)
    return word + (",SchedulingDisabled" if _spec(document, "unschedulable") else "")


def _roles(document: Document) -> str:
    prefix = "node-role.kubernetes.io/"
    return (
        ",".join(
            label.removeprefix(prefix)
            for label in document["metadata"].get("labels", {})
            if label.startswith(prefix)
        )
        or "<none>"
    )


def _address(document: Document, kind: str) -> str:
    return next(
        (entry["address"] for entry in _status(document, "addresses", ()) if entry["type"] == kind),
        "<none>",
    )


def _endpoints(document: Document) -> str:
    addresses = [
        address for endpoint in document.get("endpoints", ()) for address in endpoint["addresses"]
    ]
    return (
        ",".join(addresses[:3]) + (f" + {len(addresses) - 3} more..." if len(addresses) > 3 else "")
        or "<unset>"
    )


def _old_endpoints(document: Document) -> str:
    found = [
        f"{address['ip']}:{port['port']}"
        for subset in document.get("subsets", ())
        for port in subset.get("ports", ())
        for address in subset.get("addresses", ())
    ]
    return (
        ",".join(found[:3]) + (f" + {len(found) - 3} more..." if len(found) > 3 else "") or "<none>"
    )


def _containers(document: Document, field: str) -> str:
    return ",".join(
        container.get(field, "") for container in document["spec"]["template"]["spec"]["containers"]
    )


def _job_status(document: Document) -> str:
    ended = next(
        (
            condition["type"]
            for condition in _status(document, "conditions", ())
            if condition["status"] == "True"
        ),
        "",
    )
    word = ended or ("Suspended" if _spec(document, "suspend") else "Running")
    return paint(word, {"Complete": GOOD, "Failed": BAD}.get(word, MILD))


def job_duration(document: Document) -> str:
    """From the start to the end, or to now."""
    begun, ended = _status(document, "startTime"), _status(document, "completionTime")
    if not begun:
        return ""
    took = datetime.fromisoformat(ended).timestamp() if ended else time.time()
    return short_age(took - datetime.fromisoformat(begun).timestamp())


def _completions(job: Document) -> str:
    """Return succeeded and wanted pods: `1/3`; `1/1 of 3` for a work queue with three workers."""
    succeeded, wanted, at_a_time = (
        _status(job, "succeeded", 0),
        _spec(job, "completions", None),
        _spec(job, "parallelism", 1),
    )
    return f"{succeeded}/{wanted if wanted is not None else 1}" + (
        f" of {at_a_time}" if wanted is None and at_a_time > 1 else ""
    )


def _networking(cluster: Mapping[str, Any], field: str) -> str:
    """A field of the Cluster document; of a mode with options its name."""
    value = cluster.get("networking", {}).get(field, "")
    return str(value["type"]) if isinstance(value, dict) else str(value)


def _cni(cluster: Mapping[str, Any]) -> str:
    """The CNI mode; where a file of kind's asks for its default network, what takes that one's place."""
    networking = cluster.get("networking", {})
    if networking.get("disableDefaultCNI"):
        return "none"
    is_default = "disableDefaultCNI" in networking and "cni" not in networking
    return (_networking(cluster, "cni") or "bridge") + (
        " (in kindnet's place)" if is_default else ""
    )


_COLUMNS: Final[Mapping[str, Sequence[Column]]] = {
    "Pod": (
        ("NAME", _name, False),
        ("READY", _pod_ready, False),
        ("STATUS", _pod_status, False),
        ("RESTARTS", _restarts, False),
        ("AGE", _age, False),
        ("IP", lambda pod: _status(pod, "podIP") or "<none>", True),
        ("NODE", lambda pod: _spec(pod, "nodeName") or "<none>", True),
        ("READINESS GATES", _readiness_gates, True),
    ),
    "Service": (
        ("NAME", _name, False),
        ("TYPE", lambda service: _spec(service, "type", "ClusterIP"), False),
        ("CLUSTER-IP", lambda service: _spec(service, "clusterIP") or "<none>", False),
        (
            "EXTERNAL-IP",
            lambda service: (
                _spec(service, "externalName")
                or ",".join(
                    (
                        *(entry["ip"] for entry in _ingress(service)),
                        *_spec(service, "externalIPs", ()),
                    )
                )
                or ("<pending>" if _spec(service, "type") == "LoadBalancer" else "<none>")
            ),
            False,
        ),
        ("PORT(S)", _ports, False),
        ("AGE", _age, False),
        ("SELECTOR", lambda service: labels_text(_spec(service, "selector", {})), True),
    ),
    "Node": (
        ("NAME", _name, False),
        ("STATUS", _node_status, False),
        ("ROLES", _roles, False),
        ("AGE", _age, False),
        ("INTERNAL-IP", lambda node: _address(node, "InternalIP"), True),
        ("POD-CIDR", lambda node: _spec(node, "podCIDR"), True),
    ),
    "Cluster": (
        ("NAME", _name, False),
        ("CNI", _cni, False),
        ("KUBE-PROXY", lambda item: _networking(item, "kubeProxyMode") or "nftables", False),
        ("PODS", lambda item: _networking(item, "podSubnet"), False),
        ("SERVICES", lambda item: _networking(item, "serviceSubnet"), False),
    ),
    "Fault": (
        ("ID", _name, False),
        ("FAULT", lambda item: item["spec"]["fault"], False),
        (
            "OPTIONS",
            lambda item: (
                ",".join(f"{key}={value}" for key, value in item["spec"].get("options", {}).items())
                or "-"
            ),
            False,
        ),
        ("AGE", _age, False),
        ("WHAT", lambda item: item["spec"].get("summary", ""), True),
    ),
    "Deployment": (
        ("NAME", _name, False),
        (
            "READY",
            lambda item: f"{_status(item, 'readyReplicas', 0)}/{_spec(item, 'replicas', 1)}",
            False,
        ),
        ("UP-TO-DATE", lambda item: str(_status(item, "updatedReplicas", 0)), False),
        ("AVAILABLE", lambda item: str(_status(item, "availableReplicas", 0)), False),
        ("AGE", _age, False),
        ("CONTAINERS", lambda item: _containers(item, "name"), True),
        ("IMAGES", lambda item: _containers(item, "image"), True),
        (
            "SELECTOR",
            lambda item: labels_text(item["spec"]["selector"].get("matchLabels", {})),
            True,
        ),
    ),
    "ReplicaSet": (
        ("NAME", _name, False),
        ("DESIRED", lambda item: str(_spec(item, "replicas", 1)), False),
        ("CURRENT", lambda item: str(_status(item, "replicas", 0)), False),
        ("READY", lambda item: str(_status(item, "readyReplicas", 0)), False),
        ("AGE", _age, False),
    ),
    "ReplicationController": (
        ("NAME", _name, False),
        ("DESIRED", lambda item: str(_spec(item, "replicas", 1)), False),
        ("CURRENT", lambda item: str(_status(item, "replicas", 0)), False),
        ("READY", lambda item: str(_status(item, "readyReplicas", 0)), False),
        ("AGE", _age, False),
    ),
    "StatefulSet": (
        ("NAME", _name, False),
        (
            "READY",
            lambda item: f"{_status(item, 'readyReplicas', 0)}/{_spec(item, 'replicas', 1)}",
            False,
        ),
        ("AGE", _age, False),
        ("CONTAINERS", lambda item: _containers(item, "name"), True),
        ("IMAGES", lambda item: _containers(item, "image"), True),
    ),
    "DaemonSet": (
        ("NAME", _name, False),
        ("DESIRED", lambda item: str(_status(item, "desiredNumberScheduled", 0)), False),
        ("CURRENT", lambda item: str(_status(item, "currentNumberScheduled", 0)), False),
        ("READY", lambda item: str(_status(item, "numberReady", 0)), False),
        ("UP-TO-DATE", lambda item: str(_status(item, "updatedNumberScheduled", 0)), False),
        ("AVAILABLE", lambda item: str(_status(item, "numberAvailable", 0)), False),
        (
            "NODE SELECTOR",
            lambda item: labels_text(item["spec"]["template"]["spec"].get("nodeSelector", {})),
            False,
        ),
        ("AGE", _age, False),
        ("CONTAINERS", lambda item: _containers(item, "name"), True),
        ("IMAGES", lambda item: _containers(item, "image"), True),
        (
            "SELECTOR",
            lambda item: labels_text(item["spec"]["selector"].get("matchLabels", {})),
            True,
        ),
    ),
    "Job": (
        ("NAME", _name, False),
        ("STATUS", _job_status, False),
        ("COMPLETIONS", _completions, False),
        ("DURATION", job_duration, False),
        ("AGE", _age, False),
        ("CONTAINERS", lambda item: _containers(item, "name"), True),
        ("IMAGES", lambda item: _containers(item, "image"), True),
        (
            "SELECTOR",
            lambda item: f"batch.kubernetes.io/controller-uid={item['metadata'].get('uid', '')}",
            True,
        ),
    ),
    "EndpointSlice": (
        ("NAME", _name, False),
        ("ADDRESSTYPE", lambda item: item["addressType"], False),
        (
            "PORTS",
            lambda item: (
                ",".join(str(port.get("port", "*")) for port in item.get("ports", ())) or "<unset>"
            ),
            False,
        ),
        ("ENDPOINTS", _endpoints, False),
        ("AGE", _age, False),
    ),
    "Endpoints": (
        ("NAME", _name, False),
        ("ENDPOINTS", _old_endpoints, False),
        ("AGE", _age, False),
    ),
    "Namespace": (
        ("NAME", _name, False),
        (
            "STATUS",
            lambda item: "Terminating" if item["metadata"].get("deletionTimestamp") else "Active",
            False,
        ),
        ("AGE", _age, False),
    ),
    "Event": (
        ("LAST SEEN", lambda item: age(item.get("lastTimestamp")), False),
        ("TYPE", lambda item: item.get("type", "Normal"), False),
        ("REASON", lambda item: item.get("reason", ""), False),
        (
            "OBJECT",
            lambda item: (
                f"{item['involvedObject']['kind'].lower()}/{item['involvedObject']['name']}"
            ),
            False,
        ),
        ("MESSAGE", lambda item: item.get("message", ""), False),
    ),
}


def _state_of_kept(item: Mapping[str, Any]) -> str:
    """Return what becomes of a document of a kind that the lab does not know."""
    from kubenetlab.api.unenforced import effect_of

    return "kept, without effect" if effect_of(item) is None else "kept, not enforced"


def _columns_of(kind: str) -> Sequence[Column]:
    return _COLUMNS.get(kind, (("NAME", _name, False), ("STATE", _state_of_kept, False)))
