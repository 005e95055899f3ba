"""The node agents: they load the rules of nodes and probe pods."""
