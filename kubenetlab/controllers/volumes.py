"""Files that volumes of Secrets and ConfigMaps put into containers, for the built-in programs that read some.

Other volumes hold nothing here. Source: k8s.io/api core/v1/types.go (Volume, VolumeMount, KeyToPath), 1.33.
"""

from __future__ import annotations

import posixpath
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from kubenetlab.api.containers import Container
from kubenetlab.api.environment import ConfigMap, Secret
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster


def file_text(cluster: Cluster, pod: Pod, container: Container, path: str) -> str | None:
    """Return what a container finds in the file at an absolute path; None where no Secret and no ConfigMap puts one there."""
    mounts = [
        mount
        for mount in _mappings(container.volume_mounts)
        if _is_below(path, str(mount.get("mountPath", "")))
    ]
    if not mounts:
        return None
    mount = max(mounts, key=lambda found: len(str(found["mountPath"]).rstrip("/")))
    inside = posixpath.join(
        str(mount.get("subPath", "")), path[len(str(mount["mountPath"]).rstrip("/")) :].lstrip("/")
    ).rstrip("/")
    volume = next(
        (found for found in _mappings(pod.spec.volumes) if found.get("name") == mount.get("name")),
        {},
    )
    for source in (volume, *_mappings(_mapping(volume.get("projected")).get("sources"))):
        for contents in _contents(cluster, pod.namespace, source):
            if inside in contents:
                return contents[inside]
    return None


def _contents(
    cluster: Cluster, namespace: str, source: Mapping[str, Any]
) -> Iterator[Mapping[str, str]]:
    """Yield path → text of what a source of a volume holds."""
    secret, config_map = _mapping(source.get("secret")), _mapping(source.get("configMap"))
    if secret:  # in a volume it has `secretName`, in a projected one `name`
        found = cluster.get(
            Secret, namespace, str(secret.get("secretName", secret.get("name", "")))
        )
        yield _picked(found.values if found is not None else {}, secret)
    if config_map:
        kept = cluster.get(ConfigMap, namespace, str(config_map.get("name", "")))
        binary = (
            {
                key: b64decode(value).decode(errors="replace")
                for key, value in kept.binary_data.items()
            }
            if kept is not None
            else {}
        )
        yield _picked({**(kept.data if kept is not None else {}), **binary}, config_map)


def _picked(values: Mapping[str, str], source: Mapping[str, Any]) -> Mapping[str, str]:
    """Return all values by their keys, or those of `items` by their paths."""
    items = _mappings(source.get("items"))
    return (
        {
            str(item.get("path")): values[str(item.get("key"))]
            for item in items
            if item.get("key") in values
        }
        if items
        else values
    )


def _is_below(path: str, mount: str) -> bool:
    return bool(mount) and (path == mount.rstrip("/") or path.startswith(f"{mount.rstrip('/')}/"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return (
        [item for item in value if isinstance(item, Mapping)]
        if isinstance(value, list | tuple)
        else []
    )
