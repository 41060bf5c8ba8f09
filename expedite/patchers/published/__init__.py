"""Families as their authors published them, and those of `expedite.models`."""
