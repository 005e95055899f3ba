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
}
