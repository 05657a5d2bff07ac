"""Sweeps as the scheduler runs them: which point is tried next, and which job is given up."""
