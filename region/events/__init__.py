"""Events: intake, the durable log, and the worker that turns them into features."""
