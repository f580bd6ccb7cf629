"""Number formats, plans and recipes."""
