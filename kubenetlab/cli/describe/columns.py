"""Columns of `get` by kind, as in kubectl.

Source: k8s.io/kubernetes pkg/printers/internalversion/printers.go (1.33).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cli.describe import cells, policy_cells

Document = JsonMapping
Column = tuple[str, Callable[[Document], str], bool]
"""(heading, text, only with -o wide)"""


def header(kind: str, *, is_wide: bool) -> list[str]:
    """Return the headings for a kind."""
    return [heading for heading, _, wide_only in _columns_of(kind) if is_wide or not wide_only]


def columns(kind: str, document: Document, *, is_wide: bool) -> list[str]:
    """Return the cells of one object."""
    return [text(document) for _, text, wide_only in _columns_of(kind) if is_wide or not wide_only]


_CONTAINERS: Final[Sequence[Column]] = (
    ("CONTAINERS", lambda item: cells.container_fields(item, "name"), True),
    ("IMAGES", lambda item: cells.container_fields(item, "image"), True),
)
_SELECTOR: Final[Column] = (
    "SELECTOR",
    lambda item: cells.labels_text(item["spec"]["selector"].get("matchLabels", {})),
    True,
)
_REPLICAS: Final[Sequence[Column]] = (
    ("DESIRED", lambda item: str(cells.spec_field(item, "replicas", 1)), False),
    ("CURRENT", lambda item: str(cells.status_field(item, "replicas", 0)), False),
    ("READY", lambda item: str(cells.status_field(item, "readyReplicas", 0)), False),
)

_CALICO_POLICY: Final[Sequence[Column]] = (
    ("NAME", cells.name, False),
    ("TIER", lambda item: cells.spec_field(item, "tier", "default"), False),
    ("ORDER", policy_cells.order, False),
    ("AGE", cells.object_age, False),
    ("SELECTOR", lambda item: cells.spec_field(item, "selector", "all()"), True),
)
_COLUMNS: Final[Mapping[str, Sequence[Column]]] = {
    "Pod": (
        ("NAME", cells.name, False),
        ("READY", cells.pod_ready, False),
        ("STATUS", cells.painted_pod_status, False),
        ("RESTARTS", cells.restarts, False),
        ("AGE", cells.object_age, False),
        ("IP", lambda pod: cells.status_field(pod, "podIP") or "<none>", True),
        ("NODE", lambda pod: cells.spec_field(pod, "nodeName") or "<none>", True),
        ("READINESS GATES", cells.readiness_gates, True),
    ),
    "Service": (
        ("NAME", cells.name, False),
        ("TYPE", lambda service: cells.spec_field(service, "type", "ClusterIP"), False),
        ("CLUSTER-IP", lambda service: cells.spec_field(service, "clusterIP") or "<none>", False),
        (
            "EXTERNAL-IP",
            lambda service: (
                cells.spec_field(service, "externalName")
                or ",".join(
                    (
                        *(entry["ip"] for entry in cells.load_balancer_ingress(service)),
                        *cells.spec_field(service, "externalIPs", ()),
                    )
                )
                or (
                    "<pending>" if cells.spec_field(service, "type") == "LoadBalancer" else "<none>"
                )
            ),
            False,
        ),
        ("PORT(S)", cells.ports, False),
        ("AGE", cells.object_age, False),
        (
            "SELECTOR",
            lambda service: cells.labels_text(cells.spec_field(service, "selector", {})),
            True,
        ),
    ),
    "Node": (
        ("NAME", cells.name, False),
        ("STATUS", cells.node_status, False),
        ("ROLES", cells.roles, False),
        ("AGE", cells.object_age, False),
        ("INTERNAL-IP", lambda node: cells.node_address(node, "InternalIP"), True),
        ("POD-CIDR", lambda node: cells.spec_field(node, "podCIDR"), True),
    ),
    "Cluster": (
        ("NAME", cells.name, False),
        ("CNI", cells.cni_mode, False),
        (
            "KUBE-PROXY",
            cells.kube_proxy_mode,
            False,
        ),
        ("PODS", lambda item: cells.networking_field(item, "podSubnet"), False),
        ("SERVICES", lambda item: cells.networking_field(item, "serviceSubnet"), False),
    ),
    "NetworkPolicy": (
        ("NAME", cells.name, False),
        ("POD-SELECTOR", policy_cells.pod_selector, False),
        ("AGE", cells.object_age, False),
    ),
    "ClusterNetworkPolicy": (
        ("NAME", cells.name, False),
        ("TIER", lambda item: cells.spec_field(item, "tier"), False),
        ("PRIORITY", lambda item: str(cells.spec_field(item, "priority")), False),
        ("AGE", cells.object_age, False),
        ("SUBJECT", policy_cells.subject, True),
    ),
    "AdminNetworkPolicy": (
        ("NAME", cells.name, False),
        ("PRIORITY", lambda item: str(cells.spec_field(item, "priority")), False),
        ("AGE", cells.object_age, False),
        ("SUBJECT", policy_cells.subject, True),
    ),
    "BaselineAdminNetworkPolicy": (
        ("NAME", cells.name, False),
        ("AGE", cells.object_age, False),
        ("SUBJECT", policy_cells.subject, True),
    ),
    "CalicoNetworkPolicy": _CALICO_POLICY,
    "GlobalNetworkPolicy": _CALICO_POLICY,
    "Tier": (
        ("NAME", cells.name, False),
        ("ORDER", policy_cells.order, False),
        ("DEFAULT-ACTION", lambda item: cells.spec_field(item, "defaultAction", "Deny"), False),
        ("AGE", cells.object_age, False),
    ),
    **dict.fromkeys(
        ("NetworkSet", "GlobalNetworkSet"),
        (
            ("NAME", cells.name, False),
            ("NETS", lambda item: ",".join(cells.spec_field(item, "nets", ())), False),
            ("AGE", cells.object_age, False),
        ),
    ),
    "CiliumNetworkPolicy": (
        ("NAME", cells.name, False),
        ("AGE", cells.object_age, False),
        ("ENDPOINTS", policy_cells.endpoints, True),
    ),
    "CiliumClusterwideNetworkPolicy": (
        ("NAME", cells.name, False),
        ("AGE", cells.object_age, False),
        ("ENDPOINTS", policy_cells.endpoints, True),
    ),
    "CiliumCIDRGroup": (
        ("NAME", cells.name, False),
        ("AGE", cells.object_age, False),
        ("CIDRS", lambda item: ",".join(cells.spec_field(item, "externalCIDRs", ())), True),
    ),
    "IPPool": (
        ("NAME", cells.name, False),
        ("CIDR", lambda pool: pool["spec"]["cidr"], False),
        ("NAT", lambda pool: str(cells.spec_field(pool, "natOutgoing", False)).lower(), False),
        ("IPIPMODE", lambda pool: cells.spec_field(pool, "ipipMode", "Never"), False),
        ("VXLANMODE", lambda pool: cells.spec_field(pool, "vxlanMode", "Never"), False),
        ("AGE", cells.object_age, False),
        ("SELECTOR", lambda pool: cells.spec_field(pool, "nodeSelector", "all()"), True),
    ),
    "BGPConfiguration": (
        ("NAME", cells.name, False),
        ("MESH", lambda item: cells.spec_field(item, "nodeToNodeMeshEnabled", "-"), False),
        ("AS", lambda item: cells.spec_field(item, "asNumber", "-"), False),
        ("AGE", cells.object_age, False),
    ),
    "BGPPeer": (
        ("NAME", cells.name, False),
        ("PEERIP", lambda item: cells.spec_field(item, "peerIP", "-"), False),
        ("AS", lambda item: cells.spec_field(item, "asNumber", "-"), False),
        ("AGE", cells.object_age, False),
        ("NODES", lambda item: cells.spec_field(item, "nodeSelector", "all()"), True),
        ("PEERS", lambda item: cells.spec_field(item, "peerSelector", "-"), True),
    ),
    "BGPFilter": (
        ("NAME", cells.name, False),
        ("IMPORT", lambda item: _rule_count(item, "import"), False),
        ("EXPORT", lambda item: _rule_count(item, "export"), False),
        ("AGE", cells.object_age, False),
    ),
    "Fault": (
        ("ID", cells.name, False),
        ("FAULT", lambda item: item["spec"]["fault"], False),
        (
            "OPTIONS",
            lambda item: (
                ",".join(f"{key}={value}" for key, value in item["spec"].get("options", {}).items())
                or "-"
            ),
            False,
        ),
        ("AGE", cells.object_age, False),
        ("DESCRIPTION", lambda item: item["spec"].get("summary", ""), True),
    ),
    "Deployment": (
        ("NAME", cells.name, False),
        ("READY", cells.ready_replicas, False),
        ("UP-TO-DATE", lambda item: str(cells.status_field(item, "updatedReplicas", 0)), False),
        ("AVAILABLE", lambda item: str(cells.status_field(item, "availableReplicas", 0)), False),
        ("AGE", cells.object_age, False),
        *_CONTAINERS,
        _SELECTOR,
    ),
    "ReplicaSet": (
        ("NAME", cells.name, False),
        *_REPLICAS,
        ("AGE", cells.object_age, False),
    ),
    "ReplicationController": (
        ("NAME", cells.name, False),
        *_REPLICAS,
        ("AGE", cells.object_age, False),
    ),
    "StatefulSet": (
        ("NAME", cells.name, False),
        ("READY", cells.ready_replicas, False),
        ("AGE", cells.object_age, False),
        *_CONTAINERS,
    ),
    "DaemonSet": (
        ("NAME", cells.name, False),
        ("DESIRED", lambda item: str(cells.status_field(item, "desiredNumberScheduled", 0)), False),
        ("CURRENT", lambda item: str(cells.status_field(item, "currentNumberScheduled", 0)), False),
        ("READY", lambda item: str(cells.status_field(item, "numberReady", 0)), False),
        (
            "UP-TO-DATE",
            lambda item: str(cells.status_field(item, "updatedNumberScheduled", 0)),
            False,
        ),
        ("AVAILABLE", lambda item: str(cells.status_field(item, "numberAvailable", 0)), False),
        (
            "NODE SELECTOR",
            lambda item: cells.labels_text(
                item["spec"]["template"]["spec"].get("nodeSelector", {})
            ),
            False,
        ),
        ("AGE", cells.object_age, False),
        *_CONTAINERS,
        _SELECTOR,
    ),
    "Job": (
        ("NAME", cells.name, False),
        ("STATUS", cells.job_status, False),
        ("COMPLETIONS", cells.job_completions, False),
        ("DURATION", cells.job_duration, False),
        ("AGE", cells.object_age, False),
        *_CONTAINERS,
        (
            "SELECTOR",
            lambda item: f"batch.kubernetes.io/controller-uid={item['metadata'].get('uid', '')}",
            True,
        ),
    ),
    "EndpointSlice": (
        ("NAME", cells.name, False),
        ("ADDRESSTYPE", lambda item: item["addressType"], False),
        (
            "PORTS",
            lambda item: (
                ",".join(str(port.get("port", "*")) for port in item.get("ports", ())) or "<unset>"
            ),
            False,
        ),
        ("ENDPOINTS", cells.slice_endpoints, False),
        ("AGE", cells.object_age, False),
    ),
    "Endpoints": (
        ("NAME", cells.name, False),
        ("ENDPOINTS", cells.endpoints, False),
        ("AGE", cells.object_age, False),
    ),
    "Namespace": (
        ("NAME", cells.name, False),
        (
            "STATUS",
            lambda item: "Terminating" if item["metadata"].get("deletionTimestamp") else "Active",
            False,
        ),
        ("AGE", cells.object_age, False),
    ),
    "Event": (
        ("LAST SEEN", lambda item: cells.age(item.get("lastTimestamp")), False),
        ("TYPE", cells.paint_event_type, False),
        ("REASON", lambda item: item.get("reason", ""), False),
        (
            "OBJECT",
            lambda item: (
                f"{item['involvedObject']['kind'].lower()}/{item['involvedObject']['name']}"
            ),
            False,
        ),
        ("MESSAGE", cells.event_message, False),
    ),
}


def _rule_count(item: JsonMapping, direction: str) -> str:
    """Return the number of rules of a BGPFilter for a direction: import, export."""
    rules = [cells.spec_field(item, f"{direction}V{version}", []) for version in (4, 6)]
    return str(sum(map(len, rules)))


def state_of_kept(item: JsonMapping) -> str:
    """Return the effect of a document of a kind that the lab does not model."""
    from kubenetlab.api.manifests.unenforced import effect_of

    return "kept, without effect" if effect_of(item) is None else "kept, not enforced"


def _columns_of(kind: str) -> Sequence[Column]:
    return _COLUMNS.get(kind, (("NAME", cells.name, False), ("STATE", state_of_kept, False)))
