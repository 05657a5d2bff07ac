"""The HTTP face: takes job specs, answers what became of them. Never imports torch or the worker."""
