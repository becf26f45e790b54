"""What crosses processes: the ledger, the semaphores, the messages, names and folders, and who a process is."""
