"""What each key may do, and what it has done, in one SQLite file.

In come a key's digest, what a request asks for, and what its answer cost; out go refusals, the
names of keys, and figures. A request that is held to limits asks the file; all else is written by
one thread, and read from memory.
"""
