"""Leaves: axes of the front."""
