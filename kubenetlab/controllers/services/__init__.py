"""Controllers of Services: endpoints and load balancers."""
