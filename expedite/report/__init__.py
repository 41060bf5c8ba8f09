"""What was measured, for people: pages, plots, Markdown, two runs side by side; the demo."""
