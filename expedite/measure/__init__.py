"""Costs of a model: multiply-adds, speed, memory and where they go; metrics of maps of classes."""
