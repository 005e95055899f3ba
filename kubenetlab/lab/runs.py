"""The agent's hand for programs: the app workers, and init for programs that are processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kubenetlab import programs
from kubenetlab.datapath.contexts import Context
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.lab import rundir
from kubenetlab.lab.hands import Hand
from kubenetlab.lab.wire import Message

OnReport = Callable[[Message], None]
OnLost = Callable[[list[str]], None]


class RunsHand:
    """Starts and stops programs, and passes on what becomes of them."""

    def __init__(self, directory: Path, workers: int, on_report: OnReport, on_lost: OnLost) -> None:
        self._directory = directory
        self._on_report = on_report
        self._on_lost = on_lost
        self._workers = [
            Hand(f"app worker {number}", str(directory / rundir.worker_socket(number)), partial(self._heard, number), lambda: None)
            for number in range(workers)
        ]
        self._init = Hand("init", str(directory / rundir.INIT_SOCKET), self._heard_init, lambda: None)
        self._worker_of: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._processes: dict[tuple[str, str], int] = {}
        self.running: dict[tuple[str, str], int] = {}
        """(sandbox, container) → attempt, as far as the processes have told."""

    async def adopt(self) -> None:
        """Learns from init which processes run in pods; the workers tell of themselves when they are connected to."""
        answer = await self._init.call(do="list")
        for process in answer.get("processes", ()):
            who = process["arguments"]
            self._processes[who["netns"], who["container"]] = process["pid"]
            self.running[who["netns"], who["container"]] = who["attempt"]
        for hand in self._workers:
            await hand.call(do="nothing")  # the answer comes behind the worker's own `hello`

    async def start(self, run: ProgramRun, pid: int, context: Context) -> str | None:
        """None when it was started or could not be for a reason of its own (then it is reported); else what stood in the way."""
        if getattr(programs.load(run.program), "IS_PROCESS", False):
            return await self._start_process(run, pid, context)
        answer = await self._worker(run.netns, context.node).call(
            do="run",
            netns=run.netns,
            pid=pid,
            container=run.container,
            attempt=run.attempt,
            program=run.program,
            options=run.options,
            listeners=[{"protocol": listener.protocol, "port": listener.port} for listener in run.listeners],
            identity=context.identity,
            versions=context.versions,
            hosts=context.files.hosts,
            resolv_conf=context.files.resolv_conf,
        )
        if "error" in answer:
            return str(answer["error"])
        self._report(answer)
        return None

    def process(self, netns: str, container: str) -> int | None:
        """The pid of a container that is a process of its own."""
        return self._processes.get((netns, container))

    async def stop(self, run: ProgramRun, node: str) -> None:
        """Ends a program; success when it has ended already."""
        self.running.pop((run.netns, run.container), None)
        pid = self._processes.pop((run.netns, run.container), 0)
        if pid:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        else:
            await self._worker(run.netns, node).call(do="stop", netns=run.netns, container=run.container)

    async def logs(self, netns: str, container: str, node: str) -> list[str]:
        """A container's log: the file of its process, or what the worker remembers. Of a pod that is gone nobody knows any more which worker had it: all are asked."""
        try:
            return (self._directory / rundir.container_log(netns, container)).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            pass
        for hand in self._workers if netns not in self._worker_of else (self._worker(netns, node),):
            answer = await hand.call(do="logs", netns=netns, container=container)
            if answer.get("lines"):
                lines: list[str] = answer["lines"]
                return lines
        return []

    def forget(self, netns: str) -> None:
        """A sandbox is gone, and all that ran in it."""
        self._worker_of.pop(netns, None)
        for known in (self.running, self._processes):
            for key in [key for key in known if key[0] == netns]:
                del known[key]

    async def _start_process(self, run: ProgramRun, pid: int, context: Context) -> str | None:
        who = {"netns": run.netns, "container": run.container, "attempt": run.attempt}
        if (run.netns, run.container) in self._processes:
            await self.stop(run, context.node)
        answer = await self._init.call(do="spawn", role=run.program, sandbox=pid, arguments={**who, "identity": context.identity})
        if "error" in answer:
            return str(answer["error"])
        self._processes[run.netns, run.container] = answer["pid"]
        self._report({**who, "state": "running", "at": time.time()})
        return None

    def _worker(self, netns: str, node: str) -> Hand:
        """A sandbox stays with the worker that opened its sockets; a node's pods share one."""
        if netns not in self._worker_of:
            self._worker_of[netns] = self._nodes.setdefault(node, len(self._nodes) % len(self._workers))
        return self._workers[self._worker_of[netns]]

    def _heard(self, number: int, event: Message) -> None:
        if event["event"] == "run":
            self._report(event)
            return
        told = {(run["netns"], run["container"]) for run in event["runs"] if run["state"] == "running"}
        lost = [key for key in self.running if self._worker_of.get(key[0]) == number and key not in told and key not in self._processes]
        for key in lost:
            del self.running[key]
        for run in event["runs"]:
            self._worker_of[run["netns"]] = number
            self._report(run)
        if lost:
            self._on_lost([netns for netns, _ in lost])

    def _heard_init(self, event: Message) -> None:
        who = event["arguments"]
        key = (who["netns"], who["container"])
        if self._processes.get(key) != event["pid"]:
            return
        del self._processes[key]
        code = os.waitstatus_to_exitcode(event["status"])
        self._report(
            {
                **who,
                "state": "exited",
                "exit_code": code if code >= 0 else 128 - code,
                "message": "" if code >= 0 else f"killed by signal {-code}",
                "at": time.time(),
            }
        )

    def _report(self, report: dict[str, Any]) -> None:
        key = (report["netns"], report["container"])
        if report["state"] == "running":
            self.running[key] = report["attempt"]
        elif self.running.get(key) == report["attempt"]:
            del self.running[key]
        self._on_report(report)
