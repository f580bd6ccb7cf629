"""Leaves: engines that execute artifacts."""
