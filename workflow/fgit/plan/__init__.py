"""What a config costs, before anything is spent."""
