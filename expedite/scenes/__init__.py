"""Generated scenes with their truths, which the demo is trained and measured on."""
