"""The embedded balancer: geo routing over the edges of all regions, health checks, retries that lose no call."""
