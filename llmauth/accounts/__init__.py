"""What each key may do, and what it has done: stored keys, their limits, usage and prices.

An admitted request comes in, under its key's name; what goes out is whether it may be sent, and
what it has used. Nothing here knows Flask, and nothing here forwards.
"""
