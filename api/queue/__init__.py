"""The queue over HTTP: the order as it stands and why each job waits, and the named queues that it is made of."""
