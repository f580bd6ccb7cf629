"""Leaves: where artifacts run."""
