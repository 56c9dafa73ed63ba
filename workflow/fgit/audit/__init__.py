"""Whether the variants are what they should be: similar, and incorrect (section III-B1)."""
