"""Validation of workloads: selector, template and update strategy."""

from collections.abc import Iterator

from kubenetlab.api.apps import DaemonSet, Deployment, StatefulSet, Workload
from kubenetlab.api.batch import Job
from kubenetlab.api.meta import Labels
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.validate.metadata import validate_selector, validate_template_metadata
from kubenetlab.api.validate.pods import validate_pod_spec
from kubenetlab.api.validate.syntax import service_name_fault


def validate_workload(workload: Workload) -> Iterator[Finding]:
    """Validate a workload; yield every finding."""
    selector, template = workload.spec.selector, workload.spec.template
    yield from validate_selector(selector, ("spec", "selector"))
    yield from validate_template_metadata(template.metadata, ("spec", "template", "metadata"))
    yield from validate_pod_spec(template.spec, ("spec", "template", "spec"))
    if not selector.match_labels and not selector.match_expressions:
        yield Finding(
            ("spec", "selector"), f"an empty selector is not allowed in a {workload.kind}"
        )
    elif not selector.matches(template.metadata.labels):
        required = _format_labels(selector.match_labels) or "other labels"
        labels = _format_labels(template.metadata.labels) or "no labels"
        yield Finding(
            ("spec", "template", "metadata", "labels"),
            "`selector` does not match template `labels`",
            hints=(f"spec.selector requires: {required}", f"the template has: {labels}"),
        )
    match workload:
        case Deployment():
            yield from _validate_strategy(workload)
        case StatefulSet() if workload.spec.service_name and (
            fault := service_name_fault(workload.spec.service_name)
        ):
            yield Finding(("spec", "serviceName"), fault)
        case DaemonSet() if workload.spec.update_strategy.rolling_update.max_unavailable in (
            0,
            "0%",
        ):
            yield Finding(
                ("spec", "updateStrategy", "rollingUpdate", "maxUnavailable"),
                "cannot be 0 when maxSurge is 0",
            )
    if template.spec.restart_policy != "Always":
        yield Finding(
            ("spec", "template", "spec", "restartPolicy"),
            f"expected Always in a {workload.kind}, found {template.spec.restart_policy}",
        )


def _validate_strategy(deployment: Deployment) -> Iterator[Finding]:
    strategy, path = deployment.spec.strategy, ("spec", "strategy", "rollingUpdate")
    rolling = strategy.rolling_update
    if rolling is None:
        return
    if strategy.type == "Recreate":
        yield Finding(path, "may not be specified when strategy type is 'Recreate'")
    if rolling.max_surge in (0, "0%") and rolling.max_unavailable in (0, "0%"):
        yield Finding((*path, "maxUnavailable"), "may not be 0 when maxSurge is 0")
    if isinstance(rolling.max_unavailable, str) and int(rolling.max_unavailable.rstrip("%")) > 100:
        yield Finding(
            (*path, "maxUnavailable"), f"expected at most 100%, found {rolling.max_unavailable}"
        )


def validate_job(job: Job) -> Iterator[Finding]:
    """Validate a Job; yield every finding."""
    template = job.spec.template
    yield from validate_template_metadata(template.metadata, ("spec", "template", "metadata"))
    yield from validate_pod_spec(template.spec, ("spec", "template", "spec"))
    if template.spec.restart_policy == "Always":
        yield Finding(
            ("spec", "template", "spec", "restartPolicy"),
            "expected OnFailure or Never in a Job, found Always (the default)",
        )
    if job.spec.completion_mode == "Indexed" and job.spec.completions is None:
        yield Finding(("spec", "completions"), "required when completion mode is Indexed")
    if job.spec.selector is not None and not job.spec.manual_selector:
        yield Finding(("spec", "selector"), "set by the Job itself; remove the field")


def _format_labels(labels: Labels) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())
