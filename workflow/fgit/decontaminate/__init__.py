"""Leave out the samples that hold a benchmark's text (section III-B1).

``texts.py`` says what is looked for, ``search.py`` by which rules, ``ngrams.py`` has the two rules
for copies that were changed, and ``stage.py`` reads the data, in parts, and writes what is left.
"""
