"""DNS as pure functions: messages, the zone of the cluster, and name resolution."""
