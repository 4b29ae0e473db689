"""A small Hub of one's own, on disk: what the Hugging Face clients ask of one, for air-gapped groups and for tests."""
