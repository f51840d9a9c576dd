"""What each key may do, and what it has done, in one SQLite file.

In come a key's digest, what a request asks for, and what its answer cost; out go refusals, the
names of keys, and figures. Keys are read from memory. Limits are counted there by a process that
has the file to itself, else in the file; all else is written by one thread, twice a second.
"""
