"""Admission of BGPConfigurations: values that contradict the options of the CNI mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.calico.bgp import DEFAULT_NAME, BGPConfiguration
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.json_types import JsonValue
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding

_PLUGIN: Final = "calico"
_FIELDS: Final = (
    ("as_number", "asNumber", "asNumber"),
    ("node_to_node_mesh_enabled", "nodeToNodeMeshEnabled", "nodeToNodeMesh"),
)
"""Attribute of the spec, its field in the document, and the option of the CNI mode."""


def bgp_findings(
    after: Cluster, objects: Sequence[Resource | None]
) -> Iterator[tuple[int, Finding]]:
    """Yield (index in `objects`, finding) for contradictions between a manifest and the options.

    A finding is at the BGPConfiguration if it is among the objects, else at the Cluster document.

    after: store with the objects.
    """
    indexes = {type(obj): index for index, obj in enumerate(objects) if obj is not None}
    configuration = after.get(BGPConfiguration, "", DEFAULT_NAME)
    name, options = after.config.networking.cni_mode
    if configuration is None or name != _PLUGIN:
        return
    for attribute, field, option in _FIELDS:
        value: JsonValue = getattr(configuration.spec, attribute)
        given = options.get(option)
        if value is None or given is None or str(value).lower() == str(given).lower():
            continue
        if BGPConfiguration in indexes:
            yield (
                indexes[BGPConfiguration],
                Finding(
                    ("spec", field),
                    f"{_text(value)} contradicts networking.cni.{option} of the Cluster document, "
                    f"which is {_text(given)}",
                    hints=("leave one of them out",),
                ),
            )
        elif ClusterConfig in indexes:
            yield (
                indexes[ClusterConfig],
                Finding(
                    ("networking", "cni", option),
                    f"{_text(given)} contradicts spec.{field} of BGPConfiguration {DEFAULT_NAME}, "
                    f"which is {_text(value)}",
                    hints=("leave one of them out",),
                ),
            )


def _text(value: JsonValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
