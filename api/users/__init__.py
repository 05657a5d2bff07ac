"""Users over HTTP: what is shown of them, how they are read and changed, and the routes."""
