"""Data sets as uint8 arrays: found, checked and decoded once into a cache on disk, then opened in milliseconds."""

from worker.datasets.image_data import ImageData, Split
from worker.datasets.loading import load
from worker.datasets.splits import stratified_holdout

__all__ = ["ImageData", "Split", "load", "stratified_holdout"]
