"""The network around the pods: fabric, router, load balancers, published ports and the uplink."""
