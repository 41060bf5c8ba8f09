"""Clustering and reconstruction: pure functions under thin modules."""
