"""The agent: it reconciles the lab's store with what exists, and builds what is missing."""
