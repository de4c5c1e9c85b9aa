"""Reading the release repository with python-tuf: what verified, and nothing else (MISSION D3)."""
