"""The whole service on one machine without Docker: Postgres and Valkey from wheels, and ours as child processes."""
