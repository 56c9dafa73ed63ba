"""The kinds of benchmarks: what their problems hold, and how a model is asked."""
