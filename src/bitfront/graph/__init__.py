"""Networks as immutable numpy data."""
