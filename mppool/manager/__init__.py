"""The manager process: facts in, books, messages out. It imports only what it always needs."""
