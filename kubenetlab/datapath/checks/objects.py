"""Checks of manifests that need modes and programs: their options, and commands of containers."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod, PodTemplateSpec
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.text.documents import Path
from kubenetlab.datapath import cluster_modes
from kubenetlab.programs import unmodelled_options
from kubenetlab.programs.command import runs_own_command


def check_object(obj: Resource) -> Iterator[Finding]:
    """Yield the problems of an object; an option without effect counts as an unknown field."""
    yield from cluster_modes.check(obj)
    template = getattr(getattr(obj, "spec", None), "template", None)
    if isinstance(obj, Pod):
        yield from _options(obj, ("spec",))
    elif isinstance(template, PodTemplateSpec):
        yield from _options(template, ("spec", "template", "spec"))


def _options(pod: Pod | PodTemplateSpec, path: Path) -> Iterator[Finding]:
    for field, containers in (
        ("initContainers", pod.spec.init_containers),
        ("containers", pod.spec.containers),
    ):
        for index, container in enumerate(containers):
            if runs_own_command(pod.metadata.annotations, container, ()):
                continue
            for words, place, message in unmodelled_options(container):
                yield Finding((*path, field, index, words, place), message, is_unknown_field=True)
