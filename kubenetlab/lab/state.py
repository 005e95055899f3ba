"""The store on disk: written before the kernel is touched, by rename, so that an agent that comes back knows what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from kubenetlab.api.kinds import STORED
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster
from kubenetlab.kernel.files import replace_file


class _Saved(Struct):
    revision: int
    objects: dict[str, msgspec.Raw]
    given: list[tuple[str, str, str, Any]]


def save(cluster: Cluster, path: Path) -> None:
    """Writes the whole store."""
    objects = {kind.kind: msgspec.Raw(msgspec.json.encode(cluster.all(kind))) for kind in STORED}
    saved = _Saved(cluster.revision, objects, [(*key, document) for key, document in cluster.given.items()])
    replace_file(path, msgspec.json.encode(saved))


def load(path: Path) -> Cluster:
    """Raises OSError or msgspec.ValidationError when there is no usable store."""
    saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    objects: dict[type[Resource], dict[tuple[str, str], Resource]] = {}
    for kind in STORED:
        decoded: list[Resource] = msgspec.json.decode(saved.objects[kind.kind], type=list[kind]) if kind.kind in saved.objects else []  # type: ignore[valid-type]
        objects[kind] = {obj.key: obj for obj in decoded}
    return Cluster(objects, {(kind, namespace, name): document for kind, namespace, name, document in saved.given}, saved.revision)
