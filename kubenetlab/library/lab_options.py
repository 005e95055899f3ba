"""Options of the lab of a test: those of its markers, and the manifests beside its file."""

from __future__ import annotations

import inspect
import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from msgspec import Struct, structs

from kubenetlab.errors import KubenetlabError, LabError, UsageError, did_you_mean
from kubenetlab.library.arguments import Paths, paths_of
from kubenetlab.library.lab import Lab

MARKER: Final = "kubenetlab"
_OF_UP: Final = frozenset(inspect.signature(Lab.up).parameters) - {"manifests", "text", "name"}
"""Arguments of `Lab.up` that a marker can have."""
_OF_MARKER: Final = ("manifests", "text", "render", "reuse")
_SUFFIXES: Final = (".yaml", ".yml", ".json")
"""Suffixes of a file of manifests that has the name of the file of tests."""
_FOLDER: Final = "manifests"
"""Name of a folder of manifests for all tests beside it and below."""


MISTAKES: Final = (KubenetlabError, OSError, TypeError, ValueError)
"""Errors of wrong arguments of a marker, also of wrong types, and of files that cannot be read."""


class FileVersion(NamedTuple):
    """Version of a file of manifests: the properties that change when it is rewritten."""

    path: str
    modified_ns: int
    size: int


class LabOptions(Struct, frozen=True):
    """Manifests of a lab, and further arguments of `Lab.up`. Equal options share a lab."""

    paths: tuple[str, ...] = ()
    """Absolute paths of files and folders."""
    text: str = ""
    """Manifests as text."""
    versions: tuple[FileVersion, ...] = ()
    """Files that are read: they may be rewritten between tests."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Other arguments of `Lab.up`."""
    is_reusable: bool = True
    """False for a lab that only one test uses."""

    @property
    def is_named(self) -> bool:
        """True if the test has chosen the name of the lab: the next test can use it again."""
        return dict(self.settings).get("name") is not None

    def __str__(self) -> str:
        paths = ", ".join(os.path.relpath(path) for path in self.paths) or "manifests of the marker"
        return "; ".join((paths, *(f"{name}={value!r}" for name, value in self.settings)))


def options_of(item: pytest.Item) -> LabOptions:
    """Return the options of a test's lab.

    The marker of the test has precedence over those of its class and its module. Without manifests
    in a marker, they are those of the file or folder with the name of the module, or of the nearest
    folder `manifests`.
    Raises UsageError if there are none, or if a marker has an unknown argument.
    """
    given: dict[str, Any] = {}
    for marker in item.iter_markers(MARKER):
        given = {**_arguments(marker), **given}
    directory = item.path.parent
    paths = [str(directory / path) for path in paths_of(given.get("manifests", ()))]
    if missing := [path for path in paths if not os.path.exists(path)]:
        raise UsageError(f"manifests of the marker {MARKER}: there is no {', '.join(missing)}")
    text = str(given.get("text", ""))
    if "render" in given:
        text = "\n---\n".join(filter(None, (text, rendered(given["render"], directory))))
    if not paths and not text:
        paths = [str(path) for path in _manifests_beside(item.path, item.config.rootpath)]
    settings = tuple(sorted((name, given[name]) for name in given if name not in _OF_MARKER))
    versions = tuple(version for path in paths for version in _versions(path))
    return LabOptions(tuple(paths), text, versions, settings, bool(given.get("reuse", True)))


def _versions(path: str) -> Iterator[FileVersion]:
    """Yield the version of a file, or of all manifests in a folder."""
    files = [path]
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.endswith(_SUFFIXES))
        files = [os.path.join(path, name) for name in names]
    for file in files:
        try:
            status = os.stat(file)
        except FileNotFoundError:  # a dangling symbolic link, which `up` reports
            yield FileVersion(file, 0, 0)
        else:
            yield FileVersion(file, status.st_mtime_ns, status.st_size)


def options_ahead_of(item: pytest.Item) -> LabOptions | None:
    """Return the options of a later test's lab as far as they are known before its fixtures run.

    None if the test is skipped, has a mistake, or runs a command that renders manifests: what the
    command reads may be made by another fixture.
    """
    if item.get_closest_marker("skip") is not None:
        return None
    if any("render" in marker.kwargs for marker in item.iter_markers(MARKER)):
        return None
    try:
        options = options_of(item)
        hash(options)  # labs are kept by their options
    except MISTAKES:
        return None  # the test reports it
    return options


def _arguments(marker: pytest.Mark) -> dict[str, Any]:
    """Return the arguments of a marker by name. Raises UsageError."""
    arguments = dict(marker.kwargs)
    if marker.args:
        arguments.setdefault("manifests", marker.args)
    known = {*_OF_MARKER, *_OF_UP}
    for name in arguments:
        if name not in known:
            raise UsageError(
                f'marker {MARKER}: there is no argument "{name}"{did_you_mean(name, known)}; '
                f"known: {', '.join(sorted(known))}"
            )
    return arguments


def _manifests_beside(file: Path, root: Path) -> Iterator[Path]:
    """Yield the manifests for a file of tests without a marker. Raises UsageError."""
    candidates = [file.with_suffix(suffix) for suffix in _SUFFIXES] + [file.with_suffix("")]
    for directory in file.parents:
        candidates.append(directory / _FOLDER)
        if directory == root:
            break
    for candidate in candidates:
        if candidate.exists():
            yield candidate
            return
    raise UsageError(
        f"the fixture `lab` needs manifests for {file.name}: name them with "
        f'@pytest.mark.{MARKER}(manifests="…"), or add {file.with_suffix(".yaml").name} or a '
        f"folder {_FOLDER}/ beside the file"
    )


def rendered(command: Sequence[str] | str, directory: Path) -> str:
    """Return the output of a command that renders manifests, such as `helm template`.

    command: words, or a text without quoted spaces. It runs once in a test run.
    Raises LabError, with the messages of the command, if it fails.
    """
    words = command.split() if isinstance(command, str) else command
    return _rendered(tuple(words), str(directory))


@cache
def _rendered(words: tuple[str, ...], directory: str) -> str:
    try:
        done = subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LabError(f"render: cannot run {words[0]}: {error.strerror}") from None
    if done.returncode:
        raise LabError(
            f"render: {' '.join(words)} ended with status {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout


def from_arguments(manifests: Paths, **settings: Any) -> LabOptions:
    """Return options from the arguments of `Lab.up`."""
    options = LabOptions(tuple(paths_of(manifests)), settings.pop("text", ""))
    return structs.replace(options, settings=tuple(sorted(settings.items())))
