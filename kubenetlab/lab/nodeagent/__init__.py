"""Node agents: they load the rules of nodes, probe pods and run lifecycle hooks."""
