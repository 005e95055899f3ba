"""Forms of the outputs about packets and connections, as output_schemas.py describes them."""

from __future__ import annotations

from typing import Final

from kubenetlab.api.json_types import JsonMapping

_FLOW_END: Final = {
    "address": "text",
    "port": "whole: 0 for a protocol without ports",
    "name": "text: namespace/name of a pod, node:NAME, ext:NAME, or empty",
    "identity": "whole: number of the identity",
    "labels": ["text: labels of the identity"],
}
_PARTY: Final = {
    "address": "text",
    "name": "text: namespace/name of a pod, node:NAME, ext:NAME, or the address",
    "node": "text: node of a pod, or the node itself; empty for other hosts",
}
_POLICY: Final = {
    "kind": "text: kind of the policy",
    "policy": "text: namespace/name of the policy; the name alone for kinds without namespaces",
    "place": "text: file:line; empty if unknown",
    "enforced": "bool: true if the lab enforces policies of this kind",
}
_DIRECTION: Final = {
    "end": _PARTY,
    "allowed": "bool",
    "outdated": "bool: true if a node without agent of the CNI plugin decides by former policies",
    "differs": "bool: true if rules in the kernel of the end's node are not the desired ones",
    "missing": "bool: true if the kernel of the end's node lacks the rules that decide",
    "stage": "text: stage that decides: Admin, NetworkPolicy, Baseline, default, or a Calico tier",
    "isolated_by": [_POLICY],
    "decided_by": [
        {
            **_POLICY,
            "index": "whole: number of the rule in its list, from 0",
            "name": "text: name of the rule; empty for none",
            "action": "text: Accept or Deny",
        }
    ],
    "kernel": [
        {
            "node": "text",
            "chain": "text: table and chain, or table and map",
            "rule": "text: rule or element as the backend's program prints it",
        }
    ],
}

PACKET_OUTPUTS: Final[JsonMapping] = {
    "flows": {
        "flows": [
            {
                "at_s": "number: seconds since 1970",
                "node": "text: node whose programs report",
                "verdict": "text: forwarded or dropped",
                "direction": "text: ingress or egress, as seen from the pods of the node",
                "point": "text: place of the program, such as to-overlay",
                "source": _FLOW_END,
                "destination": _FLOW_END,
                "protocol": "text",
                "tcp_flags": ["text"],
                "state": "text: new, established, reply or unknown; empty for a drop",
                "reason": "text: reason of a drop",
                "service": "text: namespace/name:port of the Service; empty without one",
                "service_address": "text: address and port before translation",
                "length": "whole: bytes of the frame",
            }
        ],
        "lost": {"*": "whole: events that a node has lost"},
    },
    "check-diff": {
        "opened": "whole: connections that the newer manifests open",
        "closed": "whole",
        "changes": [
            {
                "change": "text: opened or closed",
                "sources": ["text: target, or group such as all pods in shop"],
                "destinations": ["text"],
                "ports": ["text: such as 80/TCP, ping, other ports, other UDP ports or all ports"],
                "before": "text: allowed, denied, partly (of the pods) or absent",
                "after": "text",
                "reasons": ["text: policies with file and line"],
                "count": "whole: triples of source, destination and port",
            }
        ],
        "unenforced": ["text: part of a changed policy without a verdict"],
        "without_effect": ["text: changed policy that selects no pod of the compared manifests"],
    },
    "explain-policy": {
        "from": "text: source",
        "to": "text: destination",
        "address": "text: destination address",
        "port": "whole: 0 for ICMP",
        "protocol": "text: ICMP, TCP, UDP or SCTP",
        "engine": "text: policy engine of the lab",
        "decision": "text: allowed, denied, or either if it depends on the path or the endpoint",
        "unenforced": [
            "text: policies that the lab does not enforce; they count only if it enforces none"
        ],
        "could_differ": [
            {
                "object": "text: kind and name of an object because of which the decision of a "
                "cluster could differ",
                "path": "text: field of the object; empty for the whole object",
                "place": "text: file:line; empty if unknown",
                "message": "text: effect in a cluster",
            }
        ],
        "endpoints": [
            {
                "address": "text",
                "port": "whole",
                "name": "text: pod, node or host at the address",
                "decision": "text: as above",
                "paths": [
                    {
                        "allowed": "bool",
                        "exemption": "text: reason why no NetworkPolicy applies; empty for none",
                        "sources": [_PARTY],
                        "egress": _DIRECTION,
                        "ingress": _DIRECTION,
                    }
                ],
            }
        ],
    },
    "policy-log": {
        "counts": [
            {
                "node": "text",
                "reason": "text: policies that isolate the pod, or the rule that denies the packet",
                "packets": "whole: packets dropped since the rule was made",
            }
        ],
        "packets": [
            {
                "at_s": "number: seconds since 1970",
                "node": "text: node that has dropped or logged the packet",
                "source": "text: namespace/name of a pod, node:NAME, ext:NAME, or the address",
                "source_address": "text",
                "source_port": "whole: 0 for a protocol without ports",
                "destination": "text: as for source",
                "destination_address": "text",
                "destination_port": "whole",
                "protocol": "text: TCP, UDP, SCTP, ICMP, or the number of another one",
                "reason": "text: as for counts; for a logged packet the rule that logs it",
                "verdict": "text: dropped, or logged by a rule with the action Log",
            }
        ],
    },
}
