"""The whole world on one machine: processes, balancer, links between regions, and the proof of residency."""
