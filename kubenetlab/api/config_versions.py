"""API versions of the Cluster document, and conversion of other versions to the current one.

A field with a default may be added to a version. For every other change, define a new version: set
`API_VERSION` to it, and add the former version to `CONVERSIONS`, with a pure function that returns
a document of the next version. Documents of all served versions stay valid that way.
"""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping

API_VERSION: Final = "kubenetlab.dev/v1alpha1"
"""Current version: the one of `ClusterConfig`."""
KIND_API_VERSION: Final = "kind.x-k8s.io/v1alpha4"
"""Version of kind's configuration file."""

Document = JsonMapping


class Conversion(Struct, frozen=True):
    """Conversion of a document to another version."""

    target: str
    """Version of the result."""
    convert: Callable[[Document], Document]
    """Function that returns the converted document, at least without `apiVersion`."""


def _from_kind(document: Document) -> Document:
    """Return a configuration of kind with kind's default: a control plane alone."""
    if document.get("nodes") in (None, []):
        return {**document, "nodes": [{"role": "control-plane"}]}
    return document


CONVERSIONS: Final[Mapping[str, Conversion]] = {
    KIND_API_VERSION: Conversion(API_VERSION, _from_kind),
}
"""Version → conversion to a later one, for every served version except the current one."""


def served_versions() -> tuple[str, ...]:
    """Return the versions that documents may have, the current one first."""
    return (API_VERSION, *CONVERSIONS)


def convert(document: Document) -> Document:
    """Return a document of a served version in the current version."""
    version = document["apiVersion"]
    while version != API_VERSION:
        conversion = CONVERSIONS[version]
        version = conversion.target
        document = {**conversion.convert(document), "apiVersion": version}
    return document
