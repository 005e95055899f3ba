"""init: PID 1 of a lab. It lives in namespaces of the lab's own; the kernel frees all if it dies.

Init holds the listening sockets of the lab, so that clients queue while a process restarts and are
refused only when the lab is dead. It forks the lab's processes, which then share its memory, forks
them again when they die, reaps all processes of the lab and logs exits. Until `up` sends `keep`,
init exits when `up` does.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
import traceback
from typing import Final, NoReturn

from kubenetlab.errors import KubenetlabError
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.processes.identity import ProcessId, end_group, start_time
from kubenetlab.kernel.processes.inheritance import UMASK
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.log import write_text
from kubenetlab.lab.messages.creation import InitStarted
from kubenetlab.lab.processes.children import Child, describe_exit
from kubenetlab.lab.processes.daemons import Daemons
from kubenetlab.lab.processes.isolation import enter_namespaces, set_up_namespaces
from kubenetlab.lab.processes.output import Outputs, print_into
from kubenetlab.lab.processes.pod_process_server import PodProcessServer
from kubenetlab.lab.processes.progress import send, send_error
from kubenetlab.lab.processes.spawner import Spawner

BACKLOG: Final = 256
"""Connections that the kernel queues on each listening socket."""


def start(context: LabContext, peer_end: socket.socket, claim: int) -> None:
    """Fork a lab's init out of this process, into namespaces of its own.

    The child closes what belongs to `up` alone.

    peer_end: `up`'s end of the progress socket.
    claim:    descriptor with `up`'s lock on the run directory.
    """
    gc.freeze()  # keeps the memory of all loaded objects shared between forks
    middle = syscalls.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    try:
        peer_end.close()
        os.close(claim)
        enter_namespaces(context)
        if syscalls.fork() == 0:
            _run(context)
    except BaseException as error:
        send_error(context, error)
    finally:
        os._exit(1)


def _run(context: LabContext) -> NoReturn:
    """Run PID 1 of a lab."""
    try:
        set_up_namespaces()
        syscalls.set_process_name("knl-init", f"kubenetlab {context.lab} init")
        outer_pid = int(os.readlink("self", dir_fd=context.outer_proc_fd))
        outer_id = ProcessId(outer_pid, start_time("self", context.outer_proc_fd))
        send(context, InitStarted(outer_id))
        print_into(context.path(rundir.LOG))
        gc.enable()
        names = [
            rundir.API_SOCKET,
            rundir.INNER_API_SOCKET,
            rundir.INIT_SOCKET,
            *(rundir.node_agent_socket(number) for number in range(context.node_agent_count)),
            *(rundir.worker_socket(number) for number in range(context.worker_count)),
        ]
        os.umask(0o177)
        context.listeners = {name: _listen(context.path(name)) for name in names}
        os.umask(UMASK)
        Init(context).run()
    except BaseException as error:
        if not isinstance(error, KubenetlabError | OSError):
            write_text(traceback.format_exc())
        send_error(context, error)
    finally:
        os._exit(1)


def _listen(path: str) -> socket.socket:
    """Return a listening socket. Raises OSError, with the path."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    listener.listen(BACKLOG)
    return listener


class Init:
    """PID 1: a poll loop over exits of children, requests, output of processes, and `up`."""

    def __init__(self, context: LabContext) -> None:
        """Import what the lab's processes need, so that they share it; start none of them."""
        # Not imported before the fork of init: `up` itself does not need asyncio.
        import kubenetlab.lab.processes.roles as roles
        import kubenetlab.lab.runtime.container_limits as container_limits

        self._context = context
        self._children = [Child(name, role) for name, role in roles.permanent_roles(context)]
        self._is_kept = False
        """True once the lab outlives `up`."""
        self._poll = select.poll()
        self._outputs = Outputs(self._poll)
        self._spawner = Spawner(context, self._outputs, self._close_inherited)
        self._daemons = Daemons(self._spawner, self._outputs, roles)
        self._server = PodProcessServer(
            context,
            self._poll,
            self._spawner,
            self._outputs,
            container_limits.ContainerLimits(context),
            roles,
            self._daemons,
        )

    def run(self) -> NoReturn:
        """Start the lab's processes, then serve for ever."""
        wake, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        for child in self._children:
            self._start(child)
        if self._context.netns_pool is not None:
            self._context.netns_pool.close()  # the agent has inherited its own copy
            self._context.netns_pool = None
        listener = self._context.listeners[rundir.INIT_SOCKET]
        progress = self._context.progress
        assert progress is not None
        for fd in (wake, listener.fileno(), progress.fileno()):
            self._poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll(self._timeout_ms()):
                if fd == wake:
                    os.read(wake, 4096)
                elif fd == listener.fileno():
                    self._server.accept(listener)
                elif fd == progress.fileno():
                    self._receive_keep(progress)
                else:
                    self._pass_on(fd)
            self._reap()
            self._start_due()

    def _pass_on(self, fd: int) -> None:
        """Read from a readable descriptor: a connection of the server, or a pipe of output."""
        if fd in self._server:
            self._server.receive(fd)
        elif fd in self._outputs:
            self._outputs.pump(fd)

    def _timeout_ms(self) -> float | None:
        """Return the time until a child or a daemon is due, in ms; None if there is none."""
        due = [child.due for child in self._children if not child.pid]
        due += self._daemons.due
        return max(0.0, (min(due) - time.monotonic()) * 1000) if due else None

    def _receive_keep(self, progress: socket.socket) -> None:
        """Let the lab outlive `up` if it sent `keep`; exit if it died, so that all is freed."""
        if progress.recv(64) != b"keep":
            os._exit(1)
        self._is_kept = True
        self._poll.unregister(progress.fileno())
        progress.close()
        self._context.progress = None
        self._context.bootstrap = None

    def _reap(self) -> None:
        """Reap all processes that have exited, report those of pods and restart the lab's own."""
        while True:
            try:
                exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None:
                return
            pid = exited.si_pid
            if self._server.has_process(pid):
                # Before it is reaped: until then its pid cannot be another process group's.
                end_group(pid)
            _, status = os.waitpid(pid, 0)
            self._server.report_exit(pid, status)
            for child in self._children:
                if child.pid == pid:
                    self._schedule(child, f"died ({describe_exit(status)})")

    def _start_due(self) -> None:
        """Start the children whose back-off is over."""
        for child in self._children:
            if not child.pid and child.due <= time.monotonic():
                self._start(child)
        self._daemons.start_due()

    def _schedule(self, child: Child, failure: str) -> None:
        """Schedule the next start of a child after a failure."""
        if not self._is_kept and child.name == "agent":
            os._exit(1)  # the agent has told `up` why
        delay_s = child.schedule(time.monotonic())
        write_text(f"{child.name} {failure}; next start in {delay_s:.1f} s")

    def _start(self, child: Child) -> None:
        try:
            child.pid = self._spawner.spawn(child.name, child.role)
        except OSError as error:
            if not self._is_kept and child.name == "agent":
                raise  # `up` is waiting for the agent
            self._schedule(child, f"cannot be started ({error.strerror})")

    def _close_inherited(self) -> None:
        """Close connections and pipes in a fork of init."""
        self._server.close_inherited()
        self._outputs.close_inherited()
