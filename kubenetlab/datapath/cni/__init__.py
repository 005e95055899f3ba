"""CNI modes: pod networks. One file each; README.md has the paths of packets."""
