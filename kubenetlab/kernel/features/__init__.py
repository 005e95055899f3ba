"""Detection of the machine's features, and of its limits."""
