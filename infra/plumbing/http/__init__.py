"""HTTP that every service shares: serving a process, problem documents, request ids, spans and metrics."""
