"""Server-sent events: what happens to one job, or to all, as it happens and from any place again."""
