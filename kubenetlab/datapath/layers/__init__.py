"""Layers: the kernel objects that each component of a cluster wants.

The plan consists of all layers in the order of LAYERS. A layer yields its subjects (the cluster, a
node, a pod) with the inputs of each, and computes kernel objects from these inputs alone. The plan
calls a layer's function for a subject only when its inputs have changed.
"""

from __future__ import annotations

from typing import Final

from kubenetlab.datapath.layers import (
    balanced_ports,
    bgp_router,
    endpoints,
    fabric,
    host_ports,
    load_balancers,
    node,
    pod,
    policies,
    programs,
    proxy,
    uplink,
)
from kubenetlab.datapath.layers.layer import Layer, PodLayer

LAYERS: Final[tuple[Layer, ...]] = (
    fabric.LAYER,
    bgp_router.LAYER,
    load_balancers.LAYER,
    uplink.LAYER,
    balanced_ports.LAYER,
    node.LAYER,
    endpoints.LAYER,
    host_ports.LAYER,
    proxy.LAYER,
    policies.LAYER,
)
"""Every layer but those of pods. Objects of one namespace keep this order."""

POD_LAYERS: Final[tuple[PodLayer, ...]] = (pod.LAYER, programs.LAYER)
"""Layers of pods. Their objects come after those of all other layers."""
