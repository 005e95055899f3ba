"""Cells of the tables of `get`, some of which `describe` prints as well.

Source: k8s.io/kubernetes pkg/printers/internalversion/printers.go (1.33).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from kubenetlab.api.json_types import JsonMapping, JsonValue
from kubenetlab.api.pods import READY_ANNOTATION
from kubenetlab.cli.terminal.theme import BAD, GOOD, WARNING, paint

Document = JsonMapping


def age(stamp: str | None) -> str:
    """Return the time since a timestamp in ISO 8601, such as `3m10s`; `<unknown>` for none."""
    return (
        short_age(time.time() - datetime.fromisoformat(stamp).timestamp()) if stamp else "<unknown>"
    )


def short_age(seconds_: float) -> str:
    """Return a duration as kubectl prints it: `5s`, `3m10s`, `2h`, `4d`.

    Source: k8s.io/apimachinery pkg/util/duration.
    """
    seconds = max(0, int(seconds_))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 48 * 3600 else f"{seconds // 86400}d"


def pod_status(document: Document) -> str:
    """Return the word in STATUS: the phase, or the reason why a container does not run."""
    status = document.get("status", {})
    if document["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if word := _initializing(document):
        return word
    word = str(status.get("reason") or status.get("phase", "Pending"))
    if any(
        condition["type"] == "PodScheduled" and condition.get("reason") == "SchedulingGated"
        for condition in status.get("conditions", ())
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
    """Return the progress of the init containers, such as `Init:1/3` or `Init:CrashLoopBackOff`.

    The text is empty once all of them have completed.
    """
    containers = document.get("spec", {}).get("initContainers", ())
    statuses = {
        container["name"]: container
        for container in document.get("status", {}).get("initContainerStatuses", ())
    }
    for index, container in enumerate(containers):
        status = statuses.get(container["name"], {})
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
            else f"Init:{index}/{len(containers)}"
        )
    return ""


def _is_sidecar(container: Document) -> bool:
    return container.get("restartPolicy") == "Always"


def name(document: Document) -> str:
    """Return the name of the object."""
    return str(document["metadata"]["name"])


def object_age(document: Document) -> str:
    """Return the time since the object was created, such as `5s`."""
    return age(document["metadata"].get("creationTimestamp"))


def spec_field(document: Document, field: str, default: JsonValue = "") -> JsonValue:
    """Return a field of the object's spec, or `default`."""
    return document.get("spec", {}).get(field, default)


def status_field(document: Document, field: str, default: JsonValue = "") -> JsonValue:
    """Return a field of the object's status, or `default`."""
    return document.get("status", {}).get(field, default)


def pod_ready(document: Document) -> str:
    """Return the number of ready containers of the pod, such as `1/2`; sidecars count."""
    sidecars = {
        container["name"]
        for container in spec_field(document, "initContainers", ())
        if _is_sidecar(container)
    }
    counted = [
        status
        for status in status_field(document, "initContainerStatuses", ())
        if status["name"] in sidecars
    ]
    counted += status_field(document, "containerStatuses", ())
    total = len(spec_field(document, "containers", ())) + len(sidecars)
    return f"{sum(status.get('ready', False) for status in counted)}/{total}"


def ready_replicas(document: Document) -> str:
    """Return the number of ready and of desired replicas of a workload, such as `1/3`."""
    return f"{status_field(document, 'readyReplicas', 0)}/{spec_field(document, 'replicas', 1)}"


def painted_pod_status(document: Document) -> str:
    """Return the word in STATUS in its colour."""
    word = pod_status(document)
    colour = {
        "Running": GOOD,
        "Completed": GOOD,
        "Succeeded": GOOD,
        "Pending": WARNING,
        "SchedulingGated": WARNING,
        "ContainerCreating": WARNING,
        "Terminating": WARNING,
    }.get(word, BAD)
    return paint(word, WARNING if word.startswith("Init:") and "/" in word else colour)


def paint_readiness(*, is_ready: bool) -> str:
    """Return the state of a pod or an endpoint in its colour."""
    return paint("ready", GOOD) if is_ready else paint("not ready", WARNING)


def event_message(event: Document) -> str:
    """Return the message of an event in one line; that of a failed operation has several."""
    return "; ".join(" ".join(line.split()) for line in event.get("message", "").splitlines())


def paint_event_type(event: Document) -> str:
    """Return the type of an event, with warnings in their colour."""
    type_: str = event.get("type", "Normal")
    return paint(type_, WARNING if type_ == "Warning" else None)


def restarts(document: Document) -> str:
    """Return the number of restarts of the pod's containers, with the age of the last."""
    containers = [
        *status_field(document, "initContainerStatuses", ()),
        *status_field(document, "containerStatuses", ()),
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


def ports(document: Document) -> str:
    """Return the ports of a Service, such as `80:30080/TCP`."""
    texts = (
        f"{port['port']}{':' + str(port['nodePort']) if port.get('nodePort') else ''}"
        f"/{port.get('protocol', 'TCP')}"
        for port in spec_field(document, "ports", ())
    )
    return ",".join(texts) or "<none>"


def readiness_gates(document: Document) -> str:
    """Return how many readiness gates of a pod are true, such as `1/2`.

    The annotation that makes a pod unready counts as a gate that is false.
    """
    gates = [gate["conditionType"] for gate in spec_field(document, "readinessGates", ())]
    gates += (
        [READY_ANNOTATION]
        if document["metadata"].get("annotations", {}).get(READY_ANNOTATION) == "false"
        else []
    )
    true_conditions = {
        condition["type"]
        for condition in status_field(document, "conditions", ())
        if condition["status"] == "True"
    }
    return f"{sum(gate in true_conditions for gate in gates)}/{len(gates)}" if gates else "<none>"


def load_balancer_ingress(service: Document) -> Sequence[Document]:
    """Return the addresses that a load balancer gave the Service, as entries of its status."""
    entries: Sequence[Document] = (
        service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    )
    return entries


def labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as in kubectl's column LABELS."""
    return ",".join(f"{key}={value}" for key, value in labels.items()) or "<none>"


def node_status(document: Document) -> str:
    """Return the word in STATUS of a node: `Ready` or `NotReady`, and `SchedulingDisabled`."""
    ready = next(
        (
            condition["status"]
            for condition in status_field(document, "conditions", ())
            if condition["type"] == "Ready"
        ),
        "Unknown",
    )
    word = paint("Ready", GOOD) if ready == "True" else paint("NotReady", BAD)
    return word + (",SchedulingDisabled" if spec_field(document, "unschedulable") else "")


def roles(document: Document) -> str:
    """Return the roles of a node, from its labels."""
    prefix = "node-role.kubernetes.io/"
    return (
        ",".join(
            label.removeprefix(prefix)
            for label in document["metadata"].get("labels", {})
            if label.startswith(prefix)
        )
        or "<none>"
    )


def node_address(document: Document, kind: str) -> str:
    """Return the first address of a node of one type, such as `InternalIP`."""
    return next(
        (
            entry["address"]
            for entry in status_field(document, "addresses", ())
            if entry["type"] == kind
        ),
        "<none>",
    )


def slice_endpoints(document: Document) -> str:
    """Return the first three addresses of an EndpointSlice, and the number of the others."""
    addresses = [
        address for endpoint in document.get("endpoints", ()) for address in endpoint["addresses"]
    ]
    return (
        ",".join(addresses[:3]) + (f" + {len(addresses) - 3} more..." if len(addresses) > 3 else "")
        or "<unset>"
    )


def endpoints(document: Document) -> str:
    """Return the first three addresses of an Endpoints object, and the number of the others."""
    addresses = [
        f"{address['ip']}:{port['port']}"
        for subset in document.get("subsets", ())
        for port in subset.get("ports", ())
        for address in subset.get("addresses", ())
    ]
    return (
        ",".join(addresses[:3]) + (f" + {len(addresses) - 3} more..." if len(addresses) > 3 else "")
        or "<none>"
    )


def container_fields(document: Document, field: str) -> str:
    """Return a field of every container in the pod template, separated by commas."""
    return ",".join(
        container.get(field, "") for container in document["spec"]["template"]["spec"]["containers"]
    )


def job_status(document: Document) -> str:
    """Return the state of a Job: `Complete`, `Failed`, `Suspended` or `Running`."""
    ended = next(
        (
            condition["type"]
            for condition in status_field(document, "conditions", ())
            if condition["status"] == "True"
        ),
        "",
    )
    word = ended or ("Suspended" if spec_field(document, "suspend") else "Running")
    return paint(word, {"Complete": GOOD, "Failed": BAD}.get(word, WARNING))


def job_duration(document: Document) -> str:
    """Return the run time of a Job, up to now if it has not completed; empty before its start."""
    started, ended = status_field(document, "startTime"), status_field(document, "completionTime")
    if not started:
        return ""
    took = datetime.fromisoformat(ended).timestamp() if ended else time.time()
    return short_age(took - datetime.fromisoformat(started).timestamp())


def job_completions(job: Document) -> str:
    """Return succeeded and desired pods: `1/3`, or `1/1 of 3` for a work queue of three pods."""
    succeeded, desired, parallelism = (
        status_field(job, "succeeded", 0),
        spec_field(job, "completions", None),
        spec_field(job, "parallelism", 1),
    )
    return f"{succeeded}/{desired if desired is not None else 1}" + (
        f" of {parallelism}" if desired is None and parallelism > 1 else ""
    )


def networking_field(cluster: JsonMapping, field: str) -> str:
    """Return a field of the Cluster document's `networking`; of a mode with options, its name."""
    value = cluster.get("networking", {}).get(field, "")
    return str(value["type"]) if isinstance(value, dict) else str(value)


def kube_proxy_mode(cluster: JsonMapping) -> str:
    """Return the kube-proxy mode, also if the Cluster document does not name one."""
    from kubenetlab.api.config import Networking
    from kubenetlab.datapath.modes import proxy_mode

    cni = networking_field(cluster, "cni") or "bridge"
    return networking_field(cluster, "kubeProxyMode") or proxy_mode(Networking(cni=cni))[0]


def cni_mode(cluster: JsonMapping) -> str:
    """Return the CNI mode, with a remark if it replaces kindnet in a configuration for kind."""
    networking = cluster.get("networking", {})
    if networking.get("disableDefaultCNI"):
        return "none"
    is_default = "disableDefaultCNI" in networking and "cni" not in networking
    return (networking_field(cluster, "cni") or "bridge") + (
        " (replaces kindnet)" if is_default else ""
    )
