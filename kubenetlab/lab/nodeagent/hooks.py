"""Lifecycle hooks of containers: a command in the container, an HTTP request, or a pause."""

from __future__ import annotations

import asyncio

from kubenetlab.lab.nodeagent.prober import PeriodicProbe


class HookRun(PeriodicProbe):
    """Single run of a hook. Its result is reported like that of a probe."""

    async def _run(self) -> None:
        fault = await self._run_hook()
        if fault is None:
            self.succeed()
        else:
            self._report(False, fault, 1, is_settled=True)

    async def _run_hook(self) -> str | None:
        """Run the hook; return an error message, or None on success."""
        spec = self.spec
        if spec.method == "sleep":
            await asyncio.sleep(spec.delay_s)
            return None
        if spec.method == "none":
            return "invalid handler: tcpSocket is not supported as a lifecycle hook"
        return await self._attempt(spec.timeout_s)
