"""Clients of the lab's other processes: node agents, app workers and init."""
