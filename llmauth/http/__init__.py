"""The grammar of HTTP/1.1 (RFC 9110 and 9112), once, for both sides of the proxy.

Bytes come in as they were received, in pieces cut anywhere; heads, content and the place where a
message ends go out, or an error where that is in doubt. No sockets, no settings, no answers.
"""
