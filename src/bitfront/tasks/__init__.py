"""Leaves: what is asked of a network."""
