"""Leaves: datasets."""
