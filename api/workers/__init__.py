"""Workers over HTTP: what each has and runs, and how admins take one out of the queue and let it in again."""
