"""Which provider a request is for, and how that provider wants it.

What is particular to a provider stands in one table (:mod:`.table`). In comes a request's path,
query and headers; out goes the backend that it is for (:mod:`.router`), and the path, key header
and URLs as that backend writes them (:mod:`.backend`). :mod:`.base_url` says what is wrong with
the base URL that somebody wrote.
"""
