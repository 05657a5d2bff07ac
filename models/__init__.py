"""Data models that the API and the worker agree on: tables, statuses, job specs, results, and networks as data.

A neural network is called a *network* here, never a model: its layers as data are in `models/layers.py`, the PyTorch
modules built from them are in `worker/networks`, and saved weights are a *checkpoint*. Nothing in this package
imports torch, Celery or a web framework.
"""
