"""Families of timm."""
