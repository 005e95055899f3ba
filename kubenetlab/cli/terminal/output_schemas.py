"""JSON Schemas of the data that commands print with `-o json`.

`OUTPUTS` holds them in a short form: a string is a type with a description, a list has items of
one form, a mapping has exactly these fields. `?` after a type allows null, and so does None as the
second item of a list. `?` before a field makes it optional, and the field `*` stands for any field.
Mappings at the top also have `schema_version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.cli.terminal.output_documents import SCHEMA_VERSION
from kubenetlab.cli.terminal.packet_outputs import PACKET_OUTPUTS

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final = {
    "text": "string",
    "whole": "integer",
    "number": "number",
    "bool": "boolean",
    "any": None,
}

_DIAGNOSTIC: Final = {
    "code": "text: kind of diagnostic, such as port-not-served or not-enforced (docs/ci.md)",
    "kind": "text: kind of the object",
    "namespace": "text: namespace in the object's document; empty for none",
    "name": "text",
    "path": "text: field that the diagnostic is about; empty for the whole object",
    "message": "text",
    "hints": ["text"],
    "file": "text: manifest file of the object; empty if unknown",
    "line": "whole: line of the field in that file; 0 if unknown",
    "accepted": "bool: true if the command line or an expectation accepts it",
    "affects": ["text: results that it could change"],
}
_DIFFERENCE: Final = {
    "line": "text: the difference as diff prints it",
    "action": "text: add, remove, change, move or unknown: what a repair would do",
    "object": "text: object that differs, or the container of the entry",
    "?desired": "text?: desired state",
    "?observed": "text?: observed state",
    "?desired_rule": "whole?: number of the rule in the desired chain, from 1",
    "?observed_rule": "whole?: number of the rule in the observed chain, from 1",
}
_TRACKED: Final = {
    "node": "text: node whose connection tracking has the entry",
    "protocol": "text",
    "state": "text",
    "client": "text: address and port that opened the connection",
    "destination": "text: original destination, address and port",
    "server": "text: address and port that answer",
    "seen_as": "text: address and port of the client as the server sees it",
    "timeout_s": "whole: seconds until the entry expires",
}
_RULES: Final = [{"name": "text: node", "rules": ["text: lines of the rule listing"]}]
_PLACE: Final = {
    "name": "text",
    "pid": "whole?: pause process, in the lab's PID namespace",
    "netns": "text?: path of the network namespace",
    "sandbox": "text: name of the sandbox",
}
_ROUTER: Final = {
    **_PLACE,
    "addresses": ["text"],
    "announced": ["text: ranges that nodes announce to the router by BGP"],
}

OUTPUTS: Final[JsonMapping] = {
    "list": [
        {
            "name": "text: name of the lab",
            "owner": "text: user who made the lab",
            "state": "text: up, no answer or private",
            "init_pid": "whole: first process of the lab",
            "age_s": "number?: age of the lab in seconds",
            "processes": "whole?",
            "memory_bytes": "whole?: proportional set size of all its processes",
            "nodes": "whole?",
            "pods": "whole?",
            "ready": "whole?: pods that are ready or have succeeded",
            "services": "whole?",
            "faults": ["text: faults made by break", None],
        }
    ],
    "ping": {
        "from": "text: source",
        "to": "text: destination",
        "address": "text: destination address of the packet",
        "port": "whole: 0 for a ping",
        "protocol": "text: ICMP, TCP, UDP or SCTP",
        "expected": (
            "text?: outcome that Kubernetes promises: answer, refused, nothing or any; "
            "null if it promises nothing"
        ),
        "found": "text: answer, refused, unreachable, silence, not testable or unresolved",
        "ms": "number: milliseconds until the answer",
        "body": "text: body of an HTTP answer",
        "?http": {
            "status": "whole: status of the HTTP answer",
            "server": "text: pod or host that answered; empty if it does not say so",
            "body": "text: body of the answer",
        },
        "?unenforced": [
            "text: objects that the lab does not enforce and that could change the result"
        ],
        "?duplicates": ["text: addresses of two pods that could change the result"],
        "?policies": ["text: network policies that deny the connection, or rules that allow it"],
        "ok": "bool: true when the exit status is 0",
    },
    "ping-count": {
        "from": "text: source",
        "to": "text: destination",
        "address": "text: destination address of the requests",
        "port": "whole",
        "protocol": "text",
        "expected": "text?: as for ping",
        "count": "whole: requests",
        "answered": "whole",
        "failed": {"*": "whole: requests that failed, by kind of failure"},
        "ms": "any: {min, median, max} of the answers in milliseconds; null without answers",
        "servers": [
            {
                "name": "text: server that answered",
                "node": "text?",
                "count": "whole?: answers; null if its share is unknown",
                "errors": "whole: HTTP answers with an error status",
                "ready": "bool?: true if it is a ready endpoint",
            }
        ],
        "unnamed": "whole?: answers that do not name their server",
        "sources": [
            {
                "address": "text: client address that servers saw",
                "owner": "text: pod, node or host that has the address",
                "count": "whole",
            }
        ],
        "explanation": "text: reason for an uneven distribution; empty if it is even",
        "unenforced": ["text: as for ping"],
        "duplicates": ["text: as for ping"],
        "?policies": ["text: as for ping"],
        "ok": "bool: true when the exit status is 0",
    },
    "ping-matrix": {
        "ok": "bool: true when the exit status is 0",
        "cells": [
            {
                "from": "text",
                "to": "text",
                "address": "text",
                "expected": "text: as for ping",
                "found": "text: as for ping",
                "ms": "number",
                "ok": "bool: true if the result is as Kubernetes promises",
                "?policies": ["text: as for ping"],
            }
        ],
        "diagnostics": [_DIAGNOSTIC],
    },
    "check": {
        "ok": "bool: true when the exit status is 0",
        "checks": [
            {
                "table": "text: name of the table",
                "name": "text: stable name, the same after pods are replaced; used in JUnit",
                "source": "text",
                "target": "text",
                "expected": "text",
                "found": "text",
                "state": "text: holds, fails or untested",
                "place": "text: file:line of the expectation",
                "ms": "number",
                "note": "text: reason why a result that holds proves little, or empty",
                "unenforced": ["text: as for ping"],
                "?policies": ["text: as for ping"],
            }
        ],
        "diagnostics": [_DIAGNOSTIC],
    },
    "diff": {
        "changes": [
            {"netns": "text: namespace", "operations": ["text"], "differences": [_DIFFERENCE]}
        ],
        "failures": {"*": "text: error of the kernel, by namespace"},
        "duplicates": ["text: addresses of two pods"],
        "faults": [{"*": "any: faults made by break"}],
        "warnings": ["text: parts of the store that could not be read"],
    },
    "plan": [{"netns": "text: namespace", "operations": ["text: + adds, - removes, ~ changes"]}],
    "inspect": {
        "lab": "text",
        "init_pid": "whole",
        "agent_pid": "whole",
        "run_directory": "text",
        "cni": "text",
        "kube_proxy_mode": "text",
        "service_proxy": {
            "detect_local_mode": "text: criterion for traffic of pods, or empty",
            "dsr": "bool: true if endpoints see clients outside at every node port",
        },
        "policy_engine": "text",
        "system_namespaces": ["text"],
        "pod_layout": "text",
        "neighbors": "text",
        "nodes": [
            {
                **_PLACE,
                "addresses": ["text"],
                "pod_cidrs": ["text"],
                "pod_addresses": ["text"],
                "gateways": ["text"],
                "pod_sources": ["text: source of its packets to pods of other nodes"],
                "node_port_addresses": ["text: its addresses at which node ports answer"],
                "ready": "bool",
                "agent": "text: running, stopped, or empty without agents",
            }
        ],
        "pods": [
            {
                "namespace": "text",
                **_PLACE,
                "node": "text",
                "addresses": ["text"],
                "host_network": "bool",
                "workload": "text?: Kind/name",
                "host_ifname": "text?: link of the pod in the node's namespace",
                "phase": "text",
                "ready": "bool",
                "containers": [
                    {
                        "name": "text",
                        "pid": "whole?: process of a real command",
                        "ports": ["whole: ports on which it listens"],
                        "?listening": ["text: port/protocol of each, such as 8080/TCP"],
                        "assumed_ports": [
                            "text: target ports of Services, used because it declares no ports"
                        ],
                        "program": "text?",
                        "real": "bool: true for a program of this machine",
                    }
                ],
            }
        ],
        "external": [{**_PLACE, "addresses": ["text"], "ports": ["whole: served by the host"]}],
        "services": [{"*": "any: addresses, policies, ports and endpoints of a Service"}],
        "router": _ROUTER,
        "other_routers": [_ROUTER],
        "uplink": ["any: addresses of both ends"],
        "faults": [{"*": "any: faults made by break"}],
    },
    "inspect-service": {
        "kind": "text",
        "name": "text: namespace/name",
        "type": "text",
        "cluster_ips": ["text"],
        "load_balancer_ips": ["text"],
        "external_ips": ["text"],
        "ports": [{"port": "whole", "protocol": "text", "node_port": "whole?", "name": "text"}],
        "endpoints": [{"*": "any: address, port, node, state and pod of an endpoint"}],
        "nodes": _RULES,
        "conntrack": [_TRACKED],
        "untracked": ["text: nodes whose connection tracking could not be read"],
        "notes": ["text: explanations of address translation, such as hairpin and masquerade"],
    },
    "inspect-pod": {
        "name": "text",
        "netns": "text?",
        "objects": ["text: links, addresses, routes and neighbours in its namespace"],
        "foreign": ["text: links, addresses and routes made by other programs"],
        "rules": "text",
        "kind": "text",
        "pods": [{"*": "any: addresses, node and link of a pod"}],
        "identities": {"*": "whole: number of the identity of a pod, in modes with identities"},
        "services": ["text: Services with the pod as an endpoint"],
        "nodes": _RULES,
        "conntrack": [_TRACKED],
        "untracked": ["text"],
        "notes": ["text"],
    },
    "inspect-place": {
        "name": "text",
        "netns": "text?",
        "objects": ["text"],
        "foreign": ["text"],
        "rules": "text",
        "?keys": [
            {
                "object": "text: WireGuard peer or XFRM state of a node",
                "age_s": (
                    "number?: seconds since the latest handshake of the peer, or since the state "
                    "was added; null before the first handshake"
                ),
                "received_bytes": "whole",
                "sent_bytes": "whole",
            }
        ],
    },
    "doctor": [
        {
            "group": "text",
            "name": "text",
            "state": "text: ok, missing or optional",
            "detail": "text",
            "remedy": "text",
        }
    ],
    "compare": {
        "ok": "bool: true if every mode was measured",
        "modes": [
            {
                "mode": "text: CNI mode as on the command line",
                "error": "text: reason why it was not measured; empty if it was",
                "ip_version": "whole?: 4 or 6, version of the packets",
                "routes": "whole?: routes in the main table of a node",
                "rules": "whole?: nftables rules on the node, with those of kube-proxy",
                "hops_same_node": "whole?: routers between two pods of the node, by TTL",
                "hops_other_node": "whole?: routers between pods of two nodes, by TTL",
                "overhead_bytes": (
                    "whole?: bytes that a packet between nodes grows on the fabric; null if it "
                    "cannot be found there"
                ),
                "mtu": "whole?: MTU of a pod for packets to another node, in bytes",
                "connect_ms": "number?: median time of a TCP connection to a pod of another node",
                "gbit_per_s": "number?: best second of one TCP stream to that pod",
                "source_at_pod": "text?: source address a pod of another node sees: pod, node, ...",
                "source_at_node": "text?: source address that another node sees",
                "encrypted": "bool?: true if packets between nodes cannot be read on the fabric",
                "programs": "whole?: eBPF programs at the links of the node",
                "enforces_policy": "bool?: true if a NetworkPolicy blocks a connection",
            }
        ],
    },
    "modes": [
        {
            "family": "text",
            "name": "text",
            "options": {"*": "any: default of an option"},
            "needs": ["text"],
            "manual": "text",
        }
    ],
    **PACKET_OUTPUTS,
}
"""Form of each output by name. `get` prints Kubernetes objects, several as a List."""


def schema_of(name: str, *, allows_more: bool = True) -> JsonObject:
    """Return the JSON Schema (draft 2020-12) of an output.

    allows_more: True if mappings may have fields that the schema does not describe, so that the
        output of a later version of kubenetlab matches, too.
    Raises KeyError for an unknown name.
    """
    title = f"kubenetlab: {name} -o json, version {SCHEMA_VERSION}"
    schema = _schema(OUTPUTS[name], allows_more)
    if schema["type"] == "object":
        version = {"const": SCHEMA_VERSION, "description": "version of this schema"}
        schema["properties"] = {"schema_version": version, **schema["properties"]}
        schema["required"] = ["schema_version", *schema["required"]]
    return {"$schema": DRAFT, "title": title, **schema}


def _schema(form: object, allows_more: bool) -> JsonObject:
    if isinstance(form, list):
        type_name = ["array", "null"] if None in form else "array"
        return {"type": type_name, "items": _schema(form[0], allows_more)}
    if isinstance(form, Mapping):
        if "*" in form:
            return {"type": "object", "additionalProperties": _schema(form["*"], allows_more)}
        fields = {
            name.removeprefix("?"): _schema(value, allows_more) for name, value in form.items()
        }
        required = [name for name in form if not name.startswith("?")]
        return {
            "type": "object",
            "properties": fields,
            "required": required,
            "additionalProperties": allows_more,
        }
    word, _, meaning = str(form).partition(": ")
    type_ = _TYPES[word.removesuffix("?")]
    described = {"description": meaning} if meaning else {}
    if type_ is None:
        return described
    return {"type": [type_, "null"] if word.endswith("?") else type_, **described}
