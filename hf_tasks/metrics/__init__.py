"""Metrics: the mathematics is in `functions.py`; each module beside it is a thin one for `evaluate.load(path)`."""
