"""Paths of the API: Kubernetes' paths, and those of the lab's own API group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource

LAB_API: Final = "/apis/kubenetlab.dev/v1alpha1"
"""Root of the lab's own API group."""

WHOLE_LAB: Final = "the lab"
"""Key for failures of a whole reconcile pass, where other keys are namespaces."""


def kind_path(kind: type[Resource], namespace: str | None = None) -> str:
    """Return the path of a kind, such as `/apis/apps/v1/namespaces/shop/deployments`.

    Without a namespace, the path covers all namespaces.
    """
    root = f"/apis/{kind.api_version}" if "/" in kind.api_version else f"/api/{kind.api_version}"
    return (
        f"{root}/namespaces/{namespace}/{kind.plural}"
        if namespace and kind.is_namespaced
        else f"{root}/{kind.plural}"
    )


def object_path(kind: type[Resource], namespace: str, name: str) -> str:
    """Return the path of an object, such as `/api/v1/namespaces/shop/pods/web-0`."""
    return f"{kind_path(kind, namespace)}/{name}"
