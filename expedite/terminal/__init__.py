"""What a person reads while and after work runs: text, tables and a word on what goes on."""
