"""Who may come in: the client's address, the key it shows, and its failed attempts.

What is known of a request comes in; a verdict goes out: public, admitted under a key's name, or the
refusal to answer with. Nothing here knows Flask, and nothing here forwards.
"""
