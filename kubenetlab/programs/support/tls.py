"""TLS of built-in programs: paths and contents of certificate and key."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ProgramOptions
from kubenetlab.programs import Setup
from kubenetlab.programs.support.arguments import misused
from kubenetlab.programs.support.localhost_certificate import CERTIFICATE, KEY

TLS: Final = "tls"
"""Option of a program that serves TLS.

It holds certificate and key: first as paths (`certificate_file`), then as PEM (`certificate`).
"""
_PARTS: Final = ("certificate", "key")
_FILES_OF_THE_IMAGE: Final[Mapping[str, str]] = {
    "/localhost.crt": CERTIFICATE,
    "/localhost.key": KEY,
}
"""Files in agnhost's image."""


def names_files(container: Container) -> bool:
    """Return True when an argument may name a certificate's file.

    This is a quick check, because most containers serve no TLS.
    """
    return any("tls-cert-file" in word for word in (*container.command, *container.args))


def tls_option(certificate_file: str, key_file: str, container: Container) -> dict[str, str]:
    """Return the TLS option of a program whose arguments name these files.

    Relative paths are resolved against the working directory.
    """
    paths = {"certificate_file": certificate_file, "key_file": key_file}
    return {
        name: posixpath.normpath(posixpath.join("/", container.working_dir, path)) if path else ""
        for name, path in paths.items()
    }


def files_read(setup: Setup) -> tuple[str, ...]:
    """Return the paths of the files that a program reads when it starts."""
    tls: Mapping[str, str] = setup.options.get(TLS, {})
    return tuple(path for part in _PARTS if (path := tls.get(f"{part}_file", "")))


def with_files(setup: Setup, files: Mapping[str, str]) -> Setup:
    """Return the setup with the contents of its files.

    When a file is missing, return that of a program which prints an error and ends.
    """
    tls: Mapping[str, str] | None = setup.options.get(TLS)
    if tls is None:
        return setup
    contents: ProgramOptions = {}
    for part in _PARTS:
        path = tls[f"{part}_file"]
        text = files.get(path, _FILES_OF_THE_IMAGE.get(path))
        if text is None:
            return misused(f"open {path}: no such file or directory")
        contents[part] = text
    return Setup(setup.program, {**setup.options, TLS: contents}, setup.listeners)
