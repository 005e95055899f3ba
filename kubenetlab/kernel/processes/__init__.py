"""Processes of a lab: identity, inherited attributes, privileges and resource limits."""
