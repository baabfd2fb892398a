"""Side-by-side measurements: each a ratio of two things in one run, so that a busy machine slows both alike.

They stand on the top floor because they run stages. Targets and results: docs/performance.md.
"""
