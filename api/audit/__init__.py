"""The audit over HTTP: how a change is recorded, and how admins read what was."""
