"""Controllers of nodes and of the addresses of their pods."""
