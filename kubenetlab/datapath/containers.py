"""What runs in a pod: for each container that should be running, its program and the ports it listens on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

from kubenetlab.api.containers import Container
from kubenetlab.api.core import Service
from kubenetlab.api.meta import Labels, matches_labels
from kubenetlab.api.pods import LISTEN_ANNOTATION, Pod, PodSpec, ports_in
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.containers import should_run
from kubenetlab.controllers.stopping import gets_signal
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.programs import (
    COMMAND,
    DEFAULT,
    DONE,
    Ports,
    Setup,
    is_one_shot,
    program_of_image,
    reads_arguments,
    serves_on,
    setup,
    takes_ports,
    tls,
)
from kubenetlab.programs.command import configure_command, runs_real_command
from kubenetlab.programs.ending import Ending, ending_of, with_ending

ASSUMING = (DEFAULT, "web")
"""Programs that may listen where Services lead, if their container declares no port. Images that people keep a shell in do not."""
Setups = Mapping[str, Setup]
"""Container of a pod → what it runs."""
Files = Mapping[str, Mapping[str, str]]
"""Container of a pod → path → text."""


def programs(
    netns: str, pod: Pod, setups: Setups, *, waits: bool, signalled: tuple[str, ...] = ()
) -> Iterator[ProgramRun]:
    """Those that run now; with `waits` those that ask only once are held back.

    signalled: containers of a terminating pod whose preStop hook is over.
    """
    for container in pod.spec.all_containers:
        status = pod.container_status(container.name)
        if status is None or not should_run(status):
            continue
        what = setups[container.name]
        is_stopping = gets_signal(pod, container, signalled)
        if is_stopping and what.program == COMMAND:
            continue  # a process that is not desired gets SIGTERM; other built-in programs serve until no node's rules lead there
        if waits and status.state.running is None and is_one_shot(what.program):
            continue
        yield ProgramRun(
            netns,
            container.name,
            status.restart_count,
            what.program,
            what.options,
            what.listeners,
            is_stopping and serves_on(what),
        )


def asks_once(spec: PodSpec, setups: Setups) -> bool:
    """True for a pod in which something may run that asks once, and ends."""
    return any(
        container.command or is_one_shot(setups[container.name].program)
        for container in spec.all_containers
    )


def setups_of(
    spec: PodSpec,
    annotations: Mapping[str, str],
    is_of_job: bool,
    target_ports: tuple[ListenPort, ...],
    real_commands: tuple[str, ...],
    files: Files | None = None,
) -> Setups:
    """Return what the containers of a pod run. `target_ports` are those of `numeric_target_ports`.

    files: the contents of those that `files_read` names; None where they do not matter.
    """
    ports = ports_of(spec, annotations, target_ports)

    def setup_of(container: Container) -> Setup:
        if runs_real_command(annotations, container, real_commands):
            return configure_command(container, spec.termination_grace_period_seconds)
        ending = ending_of(spec, container, annotations, is_of_job=is_of_job)
        what = _built_in(spec, container, ports.get(container.name, Ports()), ending)
        return what if files is None else tls.with_files(what, dict(files.get(container.name, ())))

    return {container.name: setup_of(container) for container in spec.all_containers}


def files_read(spec: PodSpec) -> tuple[tuple[str, str], ...]:
    """Return (container, path) of each file that a built-in program of a pod reads when it starts."""
    return tuple(
        (container.name, path)
        for container in spec.all_containers
        if tls.names_files(container) and reads_arguments(container.image)
        for path in tls.files_read(setup(container))
    )


def ports_of(
    spec: PodSpec, annotations: Mapping[str, str], target_ports: tuple[ListenPort, ...]
) -> Mapping[str, Ports]:
    """Return what is known of the ports of each container, by its name.

    Target ports of Services are assumed of the first container that declares no port and whose image is not known. The
    annotation speaks of the first container whose program does not know its ports itself.
    """
    serving = spec.long_running_containers
    assuming = next(
        (one.name for one in serving if not one.ports and program_of_image(one.image) in ASSUMING),
        None,
    )
    stated = annotations.get(LISTEN_ANNOTATION)
    stating = (
        next((one.name for one in serving if takes_ports(one.image)), None)
        if stated is not None
        else None
    )
    return {
        container.name: Ports(
            target_ports if container.name == assuming else (),
            tuple(ListenPort(*port) for port in ports_in(stated or ""))
            if container.name == stating
            else None,
        )
        for container in serving
    }


def assumed_ports(cluster: Cluster, pod: Pod) -> Mapping[str, tuple[ListenPort, ...]]:
    """Return the ports that are assumed of containers which declare none, by the container's name."""
    if all(container.ports for container in pod.spec.long_running_containers):
        return {}
    target_ports = numeric_target_ports(pod.labels, pod.spec, numeric_services(cluster, pod))
    found = ports_of(pod.spec, pod.metadata.annotations, target_ports)
    return {
        name: ports.assumed
        for name, ports in found.items()
        if ports.assumed and ports.stated is None
    }


def _built_in(spec: PodSpec, container: Container, ports: Ports, ending: Ending | None) -> Setup:
    """Return the built-in program of a container.

    An init container whose program would serve until it is stopped has nothing to do: it ends well at once.
    """
    what = with_ending(setup(container, ports), ending)
    is_init = container in spec.init_containers and not container.is_sidecar
    return Setup(DONE) if is_init and not is_one_shot(what.program) else what


def numeric_services(cluster: Cluster, pod: Pod) -> tuple[Service, ...]:
    """The Services with a numeric target port that may select a pod, found by one of its labels."""
    by_label: dict[tuple[str, str, str], list[tuple[int, Service]]] = cluster.derived(
        "numeric services", lambda: _by_label(cluster), (Service,)
    )
    found = [
        entry for pair in pod.labels.items() for entry in by_label.get((pod.namespace, *pair), ())
    ]
    return tuple(service for _, service in sorted(found, key=itemgetter(0)))


def _by_label(cluster: Cluster) -> dict[tuple[str, str, str], list[tuple[int, Service]]]:
    """(namespace, label, its value) of each Service's first term → (place, Service)."""
    found: dict[tuple[str, str, str], list[tuple[int, Service]]] = {}
    for place, service in enumerate(cluster.all(Service)):
        if service.spec.selector and any(
            isinstance(port.target_port, int) for port in service.spec.ports
        ):
            found.setdefault(
                (service.namespace, *next(iter(service.spec.selector.items()))), []
            ).append((place, service))
    return found


def numeric_target_ports(
    labels: Labels, spec: PodSpec, services: Iterable[Service]
) -> tuple[ListenPort, ...]:
    """Return the numeric target ports of the Services that select a pod, as far as no container of it declares them.

    A manifest need not declare its ports. Where it declares none, what the Services expect is the best guess.
    """
    declared = {
        (port.protocol, port.container_port)
        for container in spec.long_running_containers
        for port in container.ports
    }
    wanted = (
        ListenPort(port.protocol, port.target_port)
        for service in services
        if matches_labels(service.spec.selector, labels)
        for port in service.spec.ports
        if isinstance(port.target_port, int) and (port.protocol, port.target_port) not in declared
    )
    return tuple(dict.fromkeys(wanted))
