"""Linux as a lab uses it; no other package configures the kernel."""
