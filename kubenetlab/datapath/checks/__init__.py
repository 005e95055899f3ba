"""Checks of objects that need modes, the views of nodes, or built-in programs."""
