"""Jobs over HTTP: what is shown, how it is read from the database, and the routes."""
