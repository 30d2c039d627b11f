"""A search over a recipe's fields: each trial is a run like any other, in a folder of its own."""
