"""TLS of built-in programs: which files hold certificate and key, and what is in them."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any, Final

from kubenetlab.api.containers import Container
from kubenetlab.programs import Setup
from kubenetlab.programs.arguments import misused
from kubenetlab.programs.localhost_certificate import CERTIFICATE, KEY

TLS: Final = "tls"
"""The option of a program that serves TLS: certificate and key, first as paths (`certificate_file`), then as texts in PEM."""
_PARTS: Final = ("certificate", "key")
_FILES_OF_THE_IMAGE: Final[Mapping[str, str]] = {
    "/localhost.crt": CERTIFICATE,
    "/localhost.key": KEY,
}
"""What agnhost's image brings."""


def names_files(container: Container) -> bool:
    """Return True when an argument may name a certificate's file: a quick look, for all others need no further one."""
    return any("tls-cert-file" in word for word in (*container.command, *container.args))


def tls_option(certificate_file: str, key_file: str, container: Container) -> dict[str, str]:
    """Return the option of a program whose arguments name these files; relative paths count from the working directory."""
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
    """Return the setup with the contents of its files, or that of a program which ends because a file is missing."""
    tls: Mapping[str, str] | None = setup.options.get(TLS)
    if tls is None:
        return setup
    contents: dict[str, Any] = {}
    for part in _PARTS:
        path = tls[f"{part}_file"]
        text = files.get(path, _FILES_OF_THE_IMAGE.get(path))
        if text is None:
            return misused(f"open {path}: no such file or directory")
        contents[part] = text
    return Setup(setup.program, {**setup.options, TLS: contents}, setup.listeners)
