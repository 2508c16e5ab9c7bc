"""Rows and vectors on disk: the Lance table is the truth, views are derived from it."""
