"""The stand-alone application for a server that imports it: ``app.py`` and ``wsgi.py``."""

from __future__ import annotations

import sys

from flask import Flask

from ..config.keys import hiding
from ..config.loading import load, warn
from ..exceptions import ConfigurationError
from ..redact.controls import visible
from ..server.handover import Handover
from ..server.pump import Pump
from ..web.app import create_app
from ..web.extension import EXTENSION
from .logs import configure


def hosted_app() -> Flask:
    """Return the proxy, with the log that its settings want and the warnings of a start.

    :raises SystemExit: for settings that cannot be used, after a line for each on standard error
    """
    try:
        settings = load()
        app = create_app(settings)
        with hiding(settings.secrets):
            state = app.extensions[EXTENSION]
            configure(settings, state.redactor)
    except ConfigurationError as exc:
        for message in exc.messages:
            print(visible(message), file=sys.stderr)
        # After any other status gunicorn starts the next worker, for ever.
        raise SystemExit(3 if "gunicorn" in sys.modules else 2) from None
    warn(settings)
    # For waitress-serve; other servers have no way to take a stream off its thread.
    pump = Pump()
    app.wsgi_app = Handover(app.wsgi_app, pump)  # type: ignore[method-assign]
    return app
