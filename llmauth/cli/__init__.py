"""The commands, their output, and the application as other servers host it.

Words of the operator come in; banners, tables and exit statuses go out. The only room that changes
the process: handlers of the log, signals, the exit.
"""

from .commands import main

__all__ = ["main"]
