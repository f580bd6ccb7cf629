"""Timing and verification."""
