"""Kubernetes' networking model on one Linux machine, built from real kernel objects.

The names in `__all__` are the public interface for Python (docs/api.md). They are imported at
their first use, so that commands do not import them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # for type checkers it is True; importing `typing` would take time

if TYPE_CHECKING:
    from kubenetlab.errors import (
        ApplyError,
        BugError,
        KubenetlabError,
        LabError,
        ManifestError,
        Problem,
        RequirementError,
        StoreError,
        UsageError,
    )
    from kubenetlab.library.asynchronous import AsyncLab, AsyncSource
    from kubenetlab.library.events import LabEvent
    from kubenetlab.library.lab import Lab
    from kubenetlab.library.lab_warning import LabWarning
    from kubenetlab.library.planning import LabPlan, plan
    from kubenetlab.library.policy_explanation import (
        ExplainedDirection,
        ExplainedEndpoint,
        ExplainedKernelRule,
        ExplainedLimit,
        ExplainedParty,
        ExplainedPath,
        ExplainedPolicy,
        ExplainedRule,
        PolicyExplanation,
    )
    from kubenetlab.library.reachability import HttpResult, Reachability
    from kubenetlab.library.results import (
        CheckResult,
        ClientAddress,
        HttpAnswer,
        LatencySummary,
        MatrixCell,
        PingMatrix,
        PingResult,
        PingSeries,
        ReportedDiagnostic,
        RowResult,
        ServerShare,
    )
    from kubenetlab.library.source import Source

__version__ = "0.1.0"

__all__ = [
    "ApplyError",
    "AsyncLab",
    "AsyncSource",
    "BugError",
    "CheckResult",
    "ClientAddress",
    "ExplainedDirection",
    "ExplainedEndpoint",
    "ExplainedKernelRule",
    "ExplainedLimit",
    "ExplainedParty",
    "ExplainedPath",
    "ExplainedPolicy",
    "ExplainedRule",
    "HttpAnswer",
    "HttpResult",
    "KubenetlabError",
    "Lab",
    "LabError",
    "LabEvent",
    "LabPlan",
    "LabWarning",
    "LatencySummary",
    "ManifestError",
    "MatrixCell",
    "PingMatrix",
    "PingResult",
    "PingSeries",
    "PolicyExplanation",
    "Problem",
    "Reachability",
    "ReportedDiagnostic",
    "RequirementError",
    "RowResult",
    "ServerShare",
    "Source",
    "StoreError",
    "UsageError",
    "plan",
]
_MODULES = {
    "ApplyError": "errors",
    "AsyncLab": "library.asynchronous",
    "AsyncSource": "library.asynchronous",
    "BugError": "errors",
    "CheckResult": "library.results",
    "ClientAddress": "library.results",
    "ExplainedDirection": "library.policy_explanation",
    "ExplainedEndpoint": "library.policy_explanation",
    "ExplainedKernelRule": "library.policy_explanation",
    "ExplainedLimit": "library.policy_explanation",
    "ExplainedParty": "library.policy_explanation",
    "ExplainedPath": "library.policy_explanation",
    "ExplainedPolicy": "library.policy_explanation",
    "ExplainedRule": "library.policy_explanation",
    "HttpAnswer": "library.results",
    "HttpResult": "library.reachability",
    "KubenetlabError": "errors",
    "Lab": "library.lab",
    "LabError": "errors",
    "LabEvent": "library.events",
    "LabPlan": "library.planning",
    "LabWarning": "library.lab_warning",
    "LatencySummary": "library.results",
    "ManifestError": "errors",
    "MatrixCell": "library.results",
    "PingMatrix": "library.results",
    "PingResult": "library.results",
    "PingSeries": "library.results",
    "PolicyExplanation": "library.policy_explanation",
    "Problem": "errors",
    "Reachability": "library.reachability",
    "ReportedDiagnostic": "library.results",
    "RequirementError": "errors",
    "RowResult": "library.results",
    "ServerShare": "library.results",
    "Source": "library.source",
    "StoreError": "errors",
    "UsageError": "errors",
    "plan": "library.planning",
}
"""Public name → module that defines it."""

if not TYPE_CHECKING:  # otherwise type checkers would accept every name

    def __getattr__(name: str) -> object:
        """Import a public name from the module that defines it."""
        from kubenetlab.lazy import import_name

        return import_name(__name__, name, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
