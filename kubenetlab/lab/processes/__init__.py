"""Processes of a lab: init starts and supervises them in namespaces of the lab itself."""
