"""Hostile host: a host of the lab whose Python is a man in the middle between our host programs and the laptop.

`attacker` sets it up, `host` is the program that does it, `plays` what it can do, `mutations` how an honest answer is
changed at random. Nothing is imported here: `host` starts with every question.
"""
