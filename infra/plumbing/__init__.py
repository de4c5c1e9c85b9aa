"""The floor that every service stands on: errors, clock, settings, keys, telemetry, HTTP."""
