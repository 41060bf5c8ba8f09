"""Programs that measure; README.md holds what they found."""
