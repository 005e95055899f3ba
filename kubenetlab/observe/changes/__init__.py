"""Connections that a change of manifests opens and closes, computed without a lab."""
