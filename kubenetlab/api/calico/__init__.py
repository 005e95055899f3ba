"""Objects of Calico's API that the CNI mode calico uses."""
