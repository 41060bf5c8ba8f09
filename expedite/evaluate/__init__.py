"""Measuring: what a plan buys in GFLOPs, speed and memory, and what it costs in accuracy."""
