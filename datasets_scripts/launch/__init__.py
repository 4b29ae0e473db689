"""Datasets too large for one process: the same pipeline on this machine, on Slurm or on Ray."""
