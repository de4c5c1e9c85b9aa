"""The retrieval process: a release's index behind a Unix socket, its client and its supervisor (DESIGN, Processes)."""
