"""Images and labels: data sets as they are published, read into one form."""
