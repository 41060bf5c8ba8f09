"""Which cells a token may join: tables that depend on sizes alone."""
