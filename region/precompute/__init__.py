"""Lists made before they are asked for: who comes soon, within which budget, and what must make them void."""
