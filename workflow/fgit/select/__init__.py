"""The *select* stage: the variant most similar to the correct code (section II-A)."""
