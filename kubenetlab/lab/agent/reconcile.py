"""The pipeline of the lab: from the objects in the store to the objects in the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kubenetlab.hoststate.diff import diff

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent

FIRST_RESULTS_S: Final = 0.1
"""Time allowed for new probes to answer, in seconds: the next pass then handles all results."""


async def reconcile(agent: Agent) -> None:
    """Run one reconcile pass: controllers, plan, observe, diff, apply.

    The agent's loop repeats passes until one changes nothing, and retries a pass that raises.
    Clients are served at each `turns.yield_to_clients()`; their changes are left to the next pass.

    Raises UnstorableError if a controller made an object that a new agent could not read, and
    ApplyError if the kernel refuses an object of the first pass, for which `up` is waiting.
    """
    cluster = agent.run_controllers()  # what Kubernetes' control loops add                  pure
    agent.save_readable()  # a change is on disk before it is in the kernel
    await agent.turns.yield_to_clients()

    desired = agent.desired_state.update(cluster)  # objects that every component wants      pure
    await agent.turns.yield_to_clients()

    observed = agent.observed_state.state  # objects that exist: the loop refreshes it      Linux
    changes = diff(observed, desired)  # the difference between the two                      pure
    changes = agent.plugins.detach_first(changes, agent.sandboxes.pauses)
    agent.drop_resolved_failures(changes)
    if changes:
        await agent.apply(changes)  # kernel objects, rules and programs                    Linux

    agent.record_replaced_sandboxes()
    agent.plugins.attach(agent.desired_state.attachments(), agent.sandboxes.pauses)
    is_accepted = await agent.probes.replace(agent.desired_state.probes(), agent.builder.nodes)
    await agent.probes.wait_for_first_results(FIRST_RESULTS_S if changes else 0)
    agent.schedule_retries(are_probes_accepted=is_accepted)
    agent.record_detached_pods()
