"""Blocks with windows, run on windows of clusters."""
