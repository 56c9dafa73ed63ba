"""The *score* stage: outcomes of each problem from what a model answered."""
