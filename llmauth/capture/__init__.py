"""The wire capture: what crosses the proxy, as JSON Lines without secrets.

Events come in from the requests and are queued; a process of its own decodes, redacts and writes
them. `show` and `har` read what was written.
"""
