"""Leaves: network families."""
