"""The data that jobs train on: found, checked, decoded once into a cache on disk, split, scaled and described."""

from worker.datasets.preparation import PreparedData, Split, SplitIdentity, count_samples, prepare, prepare_each

__all__ = ["PreparedData", "Split", "SplitIdentity", "count_samples", "prepare", "prepare_each"]
