"""Controllers of the whole cluster: system pods, namespaces, garbage, faults."""
