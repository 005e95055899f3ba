"""Observation of a lab: probes, connections, rules and states, without any change to the lab."""
