"""The version of the service."""

VERSION = "0.1.0"  # also in pyproject.toml, which images do not have
