"""A request's way to its provider, and the answer's way back, byte for byte.

An admitted request comes in; a reply goes out whose body is still to be read, by a thread or by
whatever the server offers for it. Connections, time limits and slots are given back here, however
the exchange ends.
"""
