"""Webhooks over HTTP: what is shown of them, the routes, and the sending of what the outbox holds."""
