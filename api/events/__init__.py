"""The events of a job over HTTP: every change of its status, and what its attempts did."""
