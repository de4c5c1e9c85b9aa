"""The command line that people type and scripts call."""
