"""A member: a process with a local pool, its agent thread, and the handles that callers hold."""
