"""waitress, strict and made for streams: sockets, threads, and the pump that carries streams.

Connections come in; requests go to the application once their head was let in, and their streams
are carried without a thread of their own.
"""
