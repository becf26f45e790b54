"""A process's part in a budget, as seen from inside: finding or launching the manager, attaching, succession."""
