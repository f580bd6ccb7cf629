"""Fronts and searches."""
