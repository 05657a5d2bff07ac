"""The curves of a job: its epochs as JSON, NDJSON or CSV, whole or thinned, and the answers kept of them."""
