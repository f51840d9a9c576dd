"""Masking: no secret that the process was given or has seen is written anywhere.

Text, log records and nested data come in, with the secrets that were observed; they go out with
secrets masked, and with nothing in them that a terminal obeys. What cannot be masked is withheld.
"""
