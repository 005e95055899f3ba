"""Problems that the admission to a lab finds in documents, with file and line of the manifests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kubenetlab.api.text.decode import Finding
from kubenetlab.cli.terminal.reports import print_warning
from kubenetlab.errors import ManifestError

if TYPE_CHECKING:
    from kubenetlab.api.json_types import JsonObject
    from kubenetlab.api.manifests.load import ManifestObject
    from kubenetlab.cli.input.manifests import Manifests
    from kubenetlab.lab.bootstrap import Bootstrap


def raise_errors(reply: JsonObject, manifests: Manifests) -> None:
    """Raise ManifestError if a reply of a running lab has errors.

    Raises RequirementError if objects need kernel features that are not available.
    """
    findings = _findings(reply["findings"], manifests)
    if any(not finding.is_warning for _, finding in findings):
        raise ManifestError(entry.problem(finding) for entry, finding in findings)
    if unmet := reply.get("unmet"):
        from kubenetlab.lab.requirements import raise_unmet

        raise_unmet(str(entry.problem(finding)) for entry, finding in _findings(unmet, manifests))


def report_reply(reply: JsonObject, manifests: Manifests) -> None:
    """Print the warnings in a reply of a running lab. Raises ManifestError if it has errors."""
    raise_errors(reply, manifests)
    _warn(_findings(reply["findings"], manifests), manifests)


def _findings(
    items: Iterable[JsonObject], manifests: Manifests
) -> list[tuple[ManifestObject, Finding]]:
    return [
        (
            manifests.all_entries[item["document"]],
            Finding(
                tuple(item["path"]),
                item["message"],
                hints=tuple(item["hints"]),
                is_warning=item.get("is_warning", False),
            ),
        )
        for item in items
    ]


def warn_of_bootstrap(bootstrap: Bootstrap, manifests: Manifests) -> None:
    """Print the warnings about the documents of a new lab."""
    findings = bootstrap.admission.findings
    _warn([(manifests.entries[index], finding) for index, finding in findings], manifests)


def _warn(findings: Iterable[tuple[ManifestObject, Finding]], manifests: Manifests) -> None:
    """Print warnings, but for those that are known since the manifests were loaded."""
    known = {(each.object, each.path, each.message) for each in manifests.loaded.warnings}
    for entry, finding in findings:
        problem = entry.problem(finding)
        if (problem.object, problem.path, problem.message) not in known:
            print_warning(problem)
