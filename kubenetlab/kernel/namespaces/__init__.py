"""Namespaces: made, filled, held by pause processes, and entered."""
