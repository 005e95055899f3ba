"""Annotations of kube-router.

Source: cloudnativelabs/kube-router pkg/controllers/routing/network_routes_controller.go (2.5).
"""

from __future__ import annotations

from typing import Final, Literal

AddressKind = Literal["clusterip", "externalip", "loadbalancerip"]
"""Kind of a Service's address, as in the annotations."""

ADVERTISE_ANNOTATIONS: Final[dict[str, AddressKind]] = {
    "kube-router.io/service.advertise.clusterip": "clusterip",
    "kube-router.io/service.advertise.externalip": "externalip",
    "kube-router.io/service.advertise.loadbalancerip": "loadbalancerip",
}
"""Annotation of a Service: "true" or "false", whether nodes announce its addresses of a kind."""
LOCAL_ANNOTATION: Final = "kube-router.io/service.local"
"""Annotation of a Service: only nodes with ready endpoints announce its addresses."""
