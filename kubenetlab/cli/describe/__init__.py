"""`describe`: objects of the cluster and of the kernel, page by page."""
