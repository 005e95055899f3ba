"""describe: metadata, fields, status and events of one object."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from kubenetlab.api.calico.policies import CALICO_POLICY_KINDS
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.kinds import writable
from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS
from kubenetlab.api.policies.tiers import TIER_KINDS
from kubenetlab.cli.describe.cells import age, event_message, paint_event_type, painted_pod_status
from kubenetlab.cli.describe.fields import (
    print_conditions,
    print_field,
    print_heading,
    print_mapping,
)
from kubenetlab.cli.describe.identities import print_identities
from kubenetlab.cli.describe.jobs import describe_job
from kubenetlab.cli.describe.policies import (
    describe_calico_policy,
    describe_cilium_policy,
    describe_network_policy,
    describe_tier_policy,
)
from kubenetlab.cli.describe.services import describe_service
from kubenetlab.cli.describe.workloads import WORKLOADS, describe_workload
from kubenetlab.cli.terminal.printing import print_table
from kubenetlab.observe.targets.lookups import pod_named

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.inspection import InspectedContainer


def describe_object(client: Client, document: JsonMapping) -> None:
    """Print one object."""
    meta = document["metadata"]
    print_field("Name", meta["name"])
    if meta.get("namespace"):
        print_field("Namespace", meta["namespace"])
    print_mapping("Labels", meta.get("labels", {}))
    print_mapping("Annotations", meta.get("annotations", {}))
    print_field("Age", age(meta.get("creationTimestamp")))
    for owner in meta.get("ownerReferences", ()):
        print_field("Controlled By", f"{owner['kind']}/{owner['name']}")
    parts = {
        "Pod": _pod,
        "Service": describe_service,
        "Node": _node,
        "Job": describe_job,
        "NetworkPolicy": describe_network_policy,
        **dict.fromkeys(WORKLOADS, describe_workload),
        **{kind.kind: describe_tier_policy for kind in TIER_KINDS},
        **{kind.kind: describe_cilium_policy for kind in CILIUM_KINDS},
        **{kind.kind: describe_calico_policy for kind in CALICO_POLICY_KINDS},
    }
    kind = writable(document)
    parts.get(kind.kind if kind is not None else document["kind"], _other)(client, document)
    _events(client, document)


def _pod(client: Client, pod: JsonMapping) -> None:
    status = pod.get("status", {})
    print_field(
        "Node", f"{pod['spec'].get('nodeName', '<none>')}/{status.get('hostIP', '')}".rstrip("/")
    )
    print_field("Status", painted_pod_status(pod))
    print_field("IPs", ", ".join(entry["ip"] for entry in status.get("podIPs", ())) or "<none>")
    meta = pod["metadata"]
    print_identities(client, [f"{meta['namespace']}/{meta['name']}"])
    inspected = pod_named(client.inspect(), meta["namespace"], meta["name"])
    print_field(
        "Sandbox",
        f"{inspected['sandbox']}, pause process {inspected['pid']} in the lab's PID namespace"
        if inspected is not None and inspected["pid"]
        else "<none>",
    )
    print_field("Link on node", (inspected and inspected["host_ifname"]) or "<none>")
    programs = {
        container["name"]: container for container in (inspected["containers"] if inspected else ())
    }
    states = {
        container["name"]: container
        for field in ("initContainerStatuses", "containerStatuses")
        for container in status.get(field, ())
    }
    for title, field in (("Init Containers", "initContainers"), ("Containers", "containers")):
        if pod["spec"].get(field):
            print_heading(title)
        for container in pod["spec"].get(field, ()):
            has_probes = field == "containers" or container.get("restartPolicy") == "Always"
            _container(
                container,
                states.get(container["name"], {}),
                programs.get(container["name"]),
                has_probes=has_probes,
            )
    print_conditions(pod)


def _container(
    container: JsonMapping,
    status: JsonMapping,
    inspected: InspectedContainer | None,
    *,
    has_probes: bool,
) -> None:
    """Print one container.

    inspected: entry of the container in the lab's reply to `inspect`; None if there is none.
    has_probes: False for an init container that is not a sidecar; the kubelet probes only others.
    """
    from kubenetlab.api.containers import Probe
    from kubenetlab.api.text.decode import decode
    from kubenetlab.datapath.probes import describe, describe_implied
    from kubenetlab.programs import CNI_AGENT, COMMAND

    print_heading(container["name"], 1)
    print_field("Image", container.get("image", ""), 2)
    is_real = inspected is not None and inspected["real"]  # also while it does not run
    program = inspected["program"] if inspected is not None else None
    if is_real:
        words = shlex.join((*container.get("command", ()), *container.get("args", ())))
        pid = inspected["pid"] if inspected is not None else None
        print_field("Program", f"{words} ({f'process {pid}' if pid else 'not running'})", 2)
    else:
        print_field(
            "Program",
            f"built-in {program}" if program else "<not running>",
            2,
        )
        assumed = ", ".join(inspected["assumed_ports"] if inspected is not None else ())
        ports = ", ".join(str(port) for port in (inspected["ports"] if inspected else ()))
        remark = (
            f"  ({assumed} assumed: target port of Services; the container declares no port)"
            if assumed
            else ""
        )
        print_field(
            "Listening on",
            (ports or "<nothing>") + remark,
            2,
        )
    for name, field in (("State", "state"), ("Last State", "lastState")):
        for kind, detail in status.get(field, {}).items():
            print_field(
                name,
                f"{kind.capitalize()}{': ' + detail['reason'] if detail.get('reason') else ''}",
                2,
            )
            if detail.get("message"):
                print_field("Message", detail["message"], 3)
            if "exitCode" in detail:
                print_field("Exit Code", detail["exitCode"], 3)
    print_field("Ready", status.get("ready", False), 2)
    print_field("Restart Count", status.get("restartCount", 0), 2)
    for kind in ("Startup", "Readiness", "Liveness") if has_probes else ():
        probe_document = container.get(f"{kind.lower()}Probe")
        probe = decode(probe_document, Probe).value if probe_document is not None else None
        if probe is not None:
            is_agent = program == CNI_AGENT and kind == "Readiness"
            print_field(kind, describe(probe, is_real=is_real, is_agent=is_agent), 2)
        elif kind == "Readiness":
            print_field(kind, describe_implied(program or COMMAND), 2)


def _node(client: Client, node: JsonMapping) -> None:
    for entry in node.get("status", {}).get("addresses", ()):
        print_field(entry["type"], entry["address"])
    print_field("PodCIDR", node["spec"].get("podCIDR", ""))
    name = node["metadata"]["name"]
    inspected = next((seen for seen in client.inspect()["nodes"] if seen["name"] == name), None)
    if inspected is not None and inspected["pod_addresses"]:
        print_field("Pod addresses", ", ".join(inspected["pod_addresses"]))
    if inspected is not None and inspected["gateways"]:
        print_field("Pod gateway", ", ".join(inspected["gateways"]))
    taints = [
        f"{taint['key']}={taint.get('value', '')}:{taint['effect']}".replace("=:", ":")
        for taint in node["spec"].get("taints", ())
    ]
    print_field("Taints", ", ".join(taints) or "<none>")
    print_conditions(node)
    pods = [
        pod
        for pod in client.get("/api/v1/pods")["items"]
        if pod["spec"].get("nodeName") == node["metadata"]["name"]
    ]
    print_heading("Pods")
    print_table(
        ("NAMESPACE", "NAME", "STATUS", "IP"),
        [
            (
                pod["metadata"]["namespace"],
                pod["metadata"]["name"],
                painted_pod_status(pod),
                pod.get("status", {}).get("podIP", ""),
            )
            for pod in pods
        ],
        indent=2,
    )


def _other(client: Client, document: JsonMapping) -> None:
    from kubenetlab.cli.terminal.printing import print_data

    rest = {key: value for key, value in document.items() if key not in ("metadata", "apiVersion")}
    print_data(rest, "yaml")


def _events(client: Client, document: JsonMapping) -> None:
    uid = document["metadata"].get("uid")
    events = [
        event
        for event in client.get("/api/v1/events")["items"]
        if event["involvedObject"].get("uid") == uid
    ]
    if not events:
        print_field("Events", "<none>")
    else:
        print_heading("Events")
        print_table(
            ("TYPE", "REASON", "AGE", "FROM", "MESSAGE"),
            [
                (
                    paint_event_type(event),
                    event.get("reason", ""),
                    age(event.get("lastTimestamp")),
                    event.get("source", {}).get("component", ""),
                    event_message(event),
                )
                for event in events
            ],
            indent=2,
        )
