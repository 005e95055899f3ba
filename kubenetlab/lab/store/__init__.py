"""Store of a lab on disk: write it, read it back, and recover it if it cannot be read."""
