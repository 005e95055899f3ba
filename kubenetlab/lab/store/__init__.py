"""The lab's store on disk: written, read back, and recovered when it cannot be read."""
