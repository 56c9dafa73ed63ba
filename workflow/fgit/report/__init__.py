"""Report: every number in one file, the tables drawn from it, and a page drawn from both."""
