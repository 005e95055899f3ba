"""The agent: reconciles the lab's store with the kernel and with the other processes."""
