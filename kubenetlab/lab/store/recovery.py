"""Recovery of a store that cannot be read: continue with its newest readable version.

Damage to the file, for example by a disk error or an editor, must not end a lab, because the kernel
still forwards its packets. The agent uses the snapshot beside the store as the desired state, reads
the observed state from the kernel, and reconciles the two. Unreadable files are renamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kubenetlab.api.store import Cluster
from kubenetlab.errors import StoreError
from kubenetlab.lab.log import log
from kubenetlab.lab.store import store_file
from kubenetlab.lab.store.formats import read_format
from kubenetlab.lab.store.readable import FAILURES

_ASIDE = ".unreadable-"


def recover(path: Path) -> Cluster:
    """Return the newest store that can be read; rename files that cannot be read.

    Raises StoreError if the snapshot cannot be read either. No file is renamed then, so that the
    next agent finds the same files.
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
            f"the store cannot be read: {problem}; "
            f"the lab continues with {candidate.name}, revision {cluster.revision}"
        )
        _set_aside(store_file.journal_of(path))
        if candidate != path:
            path.touch()  # so that a missing store causes a warning, too
            _set_aside(path)
        return cluster
    raise StoreError(f"{problem}; nor can its snapshot {store_file.snapshot_of(path)}")


def warnings(path: Path) -> list[str]:
    """Return a warning for each file that was set aside, until the user removes the file."""
    return [
        f"the lab's store could not be read and is set aside as {file}{_format_problem(file)}; "
        "the latest changes may be lost: apply your manifests again, then remove that file"
        for file in sorted(path.parent.glob(f"{path.stem}.*{_ASIDE}*"))
    ]


def _format_problem(file: Path) -> str:
    """Return ` (REASON)` for a file whose format this version does not support, or nothing."""
    try:
        read_format(file.read_bytes())
    except StoreError as error:
        return f" ({error})"
    except (OSError, *FAILURES):
        pass
    return ""


def _set_aside(file: Path) -> None:
    """Rename a file to an unused name, if it exists."""
    if file.exists():
        file.rename(next(name for name in _names(file) if not name.exists()))


def _names(file: Path) -> Iterator[Path]:
    return (file.with_name(f"{file.name}{_ASIDE}{number}") for number in count(1))
