"""Figures that are published, one script each. Results lie in results/, with where they come from."""
