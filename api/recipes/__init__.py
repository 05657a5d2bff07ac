"""Recipes over HTTP: what is shown of them, the body of a job that starts from one, and the routes."""
