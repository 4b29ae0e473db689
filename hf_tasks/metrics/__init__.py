"""Metrics: the mathematics is in `functions.py`; each folder is a thin module for `evaluate.load(path)`."""
