"""Leaves: where curves are sent."""
