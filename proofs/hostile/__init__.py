"""A hostile host: a host of the lab whose Python stands between our far-side programs and the laptop.

`attacker` sets it up, `host` is the program that does it, `plays` what it can do, `mutations` how an honest answer is
changed at random. Nothing is imported here: `host` starts with every question.
"""
