"""Where broken inputs come from: a file for each kind, which has one function, `draw(rng, place)`.

It breaks something in `place`, a copy of the scene that is the trial's own, and says which command is to meet it. What
the function draws depends on `rng` alone. A further source is one more file, named in `drilling.fuzz.SOURCES`.
"""
