"""Data sets over HTTP: what is shown of them, what is said of each, and the routes."""
