"""The wire capture: what crosses the proxy, as JSON Lines without secrets.

Events come in from the requests (`recorder`) and are queued (`queue`); a process of its own, which
`recording` keeps running, decodes, redacts and writes them. `show` and `har` read what was written.
"""
