"""Architectures whose published checkpoints have no maintained home."""
