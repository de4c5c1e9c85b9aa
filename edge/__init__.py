"""The edge: what callers talk to. Caches, region choice, the degradation ladder; no state of its own."""
