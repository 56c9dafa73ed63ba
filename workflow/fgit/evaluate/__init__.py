"""The *evaluate* stage: a model answers the problems of a benchmark (section III-B2)."""
