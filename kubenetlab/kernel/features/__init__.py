"""What this machine can do, what it lacks, and its limits."""
