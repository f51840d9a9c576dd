"""``application`` for waitress-serve, gunicorn, granian and mod_wsgi."""

from llmauth import create_app

application = create_app()
