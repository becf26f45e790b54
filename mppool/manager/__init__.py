"""The manager process: facts in, books, messages out. It imports nothing that it does not need every day."""
