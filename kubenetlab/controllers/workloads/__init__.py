"""Controllers of Deployments, StatefulSets, DaemonSets, Jobs and their pods."""
