"""CNI modes: how pods are wired to their node, and how nodes reach one another's pods. One file each."""
