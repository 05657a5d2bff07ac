"""Sweeps over HTTP: what is shown of them, what their points say together, and the routes."""
