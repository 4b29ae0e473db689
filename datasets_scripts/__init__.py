"""Builders of the published datasets, one file a corpus family; not part of the installed package."""
