"""A store that cannot be read: it is set aside, and the lab goes on from the last one that can be read.

What happens from outside to the file (a disk's fault, an editor) must not end a lab: everything that forwards packets is the kernel's.
The agent takes the snapshot beside the store for the desired state, finds in the kernel what exists, and reconciles the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kubenetlab.api.store import Cluster
from kubenetlab.errors import StoreError
from kubenetlab.lab.log import log
from kubenetlab.lab.store import store_file

_ASIDE = ".unreadable-"


def recovered(path: Path) -> Cluster:
    """Return the newest store that can be read; files that cannot be read are renamed.

    Raises StoreError, having renamed nothing, where not even the snapshot can be read: the next agent would find less.
    """
    try:
        return store_file.load(path)
    except StoreError as error:
        problem = error
    for candidate in (path, store_file.snapshot_of(path)):
        try:
            cluster = store_file.load(candidate, is_lenient=True)
        except StoreError:
            continue
        log(
            f"the store cannot be read: {problem}; the lab goes on from {candidate.name}, revision {cluster.revision}"
        )
        _set_aside(store_file.journal_of(path))
        if candidate != path:
            path.touch()  # a store that is missing is shown as one that cannot be read
            _set_aside(path)
        return cluster
    raise StoreError(f"{problem}; nor can its snapshot {store_file.snapshot_of(path)}")


def warnings(path: Path) -> list[str]:
    """Return what a user must know of the store: one sentence for each file that was set aside, as long as it is there."""
    return [
        f"the lab's store could not be read and is set aside as {file}; the latest changes may be lost: "
        "apply your manifests again, then remove that file"
        for file in sorted(path.parent.glob(f"{path.stem}.*{_ASIDE}*"))
    ]


def _set_aside(file: Path) -> None:
    if file.exists():
        file.rename(next(name for name in _names(file) if not name.exists()))


def _names(file: Path) -> Iterator[Path]:
    return (file.with_name(f"{file.name}{_ASIDE}{number}") for number in count(1))
