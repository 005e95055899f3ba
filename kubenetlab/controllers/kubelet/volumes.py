"""Files in volumes of Secrets and ConfigMaps, for built-in programs that read files.

Other volumes are empty in the lab.
Source: k8s.io/api core/v1/types.go (Volume, VolumeMount, KeyToPath), 1.33.
"""

from __future__ import annotations

import posixpath
from base64 import b64decode
from collections.abc import Iterator, Mapping

from kubenetlab.api.containers import Container
from kubenetlab.api.environment import ConfigMap, Secret
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster


def file_content(cluster: Cluster, pod: Pod, container: Container, path: str) -> str | None:
    """Return the content of the file at an absolute path in a container.

    Return None when no Secret and no ConfigMap provides the file.
    """
    mounts = [
        mount
        for mount in _mappings(container.volume_mounts)
        if _is_below(path, str(mount.get("mountPath", "")))
    ]
    if not mounts:
        return None
    mount = max(mounts, key=lambda candidate: len(str(candidate["mountPath"]).rstrip("/")))
    inside = posixpath.join(
        str(mount.get("subPath", "")), path[len(str(mount["mountPath"]).rstrip("/")) :].lstrip("/")
    ).rstrip("/")
    volume = next(
        (entry for entry in _mappings(pod.spec.volumes) if entry.get("name") == mount.get("name")),
        {},
    )
    for source in (volume, *_mappings(_mapping(volume.get("projected")).get("sources"))):
        for contents in _contents(cluster, pod.namespace, source):
            if inside in contents:
                return contents[inside]
    return None


def _contents(cluster: Cluster, namespace: str, source: JsonMapping) -> Iterator[Mapping[str, str]]:
    """Yield the files of one source of a volume, path → text."""
    secret, config_map = _mapping(source.get("secret")), _mapping(source.get("configMap"))
    if secret:  # the field is `secretName` in a volume, `name` in a projected one
        secret_object = cluster.get(
            Secret, namespace, str(secret.get("secretName", secret.get("name", "")))
        )
        yield _select_items(secret_object.values if secret_object is not None else {}, secret)
    if config_map:
        config_map_object = cluster.get(ConfigMap, namespace, str(config_map.get("name", "")))
        binary = (
            {
                key: b64decode(value).decode(errors="replace")
                for key, value in config_map_object.binary_data.items()
            }
            if config_map_object is not None
            else {}
        )
        yield _select_items(
            {**(config_map_object.data if config_map_object is not None else {}), **binary},
            config_map,
        )


def _select_items(values: Mapping[str, str], source: JsonMapping) -> Mapping[str, str]:
    """Return all values by their keys, or those that `items` selects by their paths."""
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


def _mapping(value: object) -> JsonMapping:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[JsonMapping]:
    return (
        [item for item in value if isinstance(item, Mapping)]
        if isinstance(value, list | tuple)
        else []
    )
