"""Families of torchvision."""
