"""Paths of the API: as Kubernetes has them, and the lab's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource

LAB_API: Final = "/apis/kubenetlab.dev/v1alpha1"
"""What Kubernetes' API has not is below this one."""

LAB: Final = "the lab"
"""Key for failures of a whole reconcile round, among those of one namespace each."""


def kind_path(kind: type[Resource], namespace: str | None = None) -> str:
    """`/apis/apps/v1/namespaces/shop/deployments`; without a namespace all of them."""
    root = f"/apis/{kind.api_version}" if "/" in kind.api_version else f"/api/{kind.api_version}"
    return (
        f"{root}/namespaces/{namespace}/{kind.plural}"
        if namespace and kind.is_namespaced
        else f"{root}/{kind.plural}"
    )


def object_path(kind: type[Resource], namespace: str, name: str) -> str:
    """`/api/v1/namespaces/shop/pods/web-0`."""
    return f"{kind_path(kind, namespace)}/{name}"
