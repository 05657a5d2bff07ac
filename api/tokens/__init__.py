"""Tokens over HTTP: what is shown of them, how they are made and revoked, and the routes."""
