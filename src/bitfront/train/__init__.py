"""Changing weights."""
