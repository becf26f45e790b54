"""One budget over several hosts, kept in an engine that exists. Nothing imports this room yet; see README.md here."""
