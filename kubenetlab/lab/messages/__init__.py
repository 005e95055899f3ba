"""Messages between a lab's own processes: one module for each protocol.

    creation    new processes of a lab → `up`
    init        agent and node agents ↔ init
    node_agent  agent ↔ node agents
    app_worker  agent ↔ app workers

Each module ends with the unions of the requests that its server accepts, and of the events that
the server sends by itself.
"""
