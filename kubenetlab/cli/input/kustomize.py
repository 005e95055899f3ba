"""Kustomizations (-k): build manifests with kustomize, or with the one built into kubectl."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from kubenetlab.api.text.documents import Document, read_documents
from kubenetlab.errors import ManifestError, Problem, RequirementError

_COMMANDS: Final = (("kustomize", "build"), ("kubectl", "kustomize"))
BUILD_TIMEOUT_S: Final = 120
"""Time allowed for building one directory, in seconds."""


class Kustomization(str):
    """Directory given with -k; distinguishes it from the paths given with -f."""

    __slots__ = ()


def build(directories: Sequence[str]) -> tuple[list[Document], list[Problem]]:
    """Return the documents that kustomize builds from directories, and their warnings.

    Raises RequirementError if neither program is installed, ManifestError if a build fails.
    """
    if not directories:
        return [], []
    command = next((command for command in _COMMANDS if shutil.which(command[0])), None)
    if command is None:
        raise RequirementError(
            "-k needs the program kustomize or kubectl; neither is installed\n"
            "  install one (https://kubectl.docs.kubernetes.io/installation/kustomize), "
            "or name the manifests with -f"
        )
    documents: list[Document] = []
    problems: list[Problem] = []
    for directory in directories:
        title = f"{directory} ({command[0]})"
        try:
            result = subprocess.run(
                [*command, directory],
                capture_output=True,
                check=False,
                timeout=BUILD_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(Problem(f"{command[0]} failed: {error}", file=directory))
            continue
        if result.returncode:
            message = (
                result.stderr.decode(errors="replace")
                .strip()
                .removeprefix("error: ")
                .removeprefix("Error: ")
            )
            problems.append(Problem(f"{' '.join(command)}: {message}", file=directory))
            continue
        built, findings = read_documents(title, result.stdout)
        documents += built
        problems += findings
    if any(not problem.is_warning for problem in problems):
        raise ManifestError(problems)
    return documents, problems
