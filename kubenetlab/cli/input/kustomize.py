"""Folders with a kustomization: built by the real kustomize, or by the one in kubectl."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from kubenetlab.api.documents import Document, read_documents
from kubenetlab.errors import ManifestError, Problem, RequirementError

_COMMANDS: Final = (("kustomize", "build"), ("kubectl", "kustomize"))
BUILD_TIMEOUT_S: Final = 120


class Kustomization(str):
    """A folder of -k, among the files of -f."""

    __slots__ = ()


def build(directories: Sequence[str]) -> tuple[list[Document], list[Problem]]:
    """Return the documents that kustomize makes of folders, and what is wrong with them.

    Raises RequirementError where neither program is installed, ManifestError with what the program says of a folder.
    """
    if not directories:
        return [], []
    command = next((command for command in _COMMANDS if shutil.which(command[0])), None)
    if command is None:
        raise RequirementError(
            "-k needs the program kustomize, or kubectl, which has it built in; neither is installed\n"
            "  see https://kubectl.docs.kubernetes.io/installation/kustomize, or name the manifests with -f"
        )
    documents: list[Document] = []
    problems: list[Problem] = []
    for directory in directories:
        title = f"{directory} ({command[0]})"
        try:
            done = subprocess.run(
                [*command, directory],
                capture_output=True,
                check=False,
                timeout=BUILD_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(Problem(f"{command[0]} did not end well: {error}", file=directory))
            continue
        if done.returncode:
            said = (
                done.stderr.decode(errors="replace")
                .strip()
                .removeprefix("error: ")
                .removeprefix("Error: ")
            )
            problems.append(Problem(f"{' '.join(command)}: {said}", file=directory))
            continue
        found, faults = read_documents(title, done.stdout)
        documents += found
        problems += faults
    if any(not problem.is_warning for problem in problems):
        raise ManifestError(problems)
    return documents, problems
