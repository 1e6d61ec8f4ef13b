"""Samples, what is measured on them, and its store."""
