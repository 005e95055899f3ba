"""Namespaces of sandboxes: creation, configuration, pause processes, and entering them."""
