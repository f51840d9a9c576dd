"""``application`` for waitress-serve, gunicorn, granian and mod_wsgi."""

from llmauth.cli.hosting import hosted_app

application = hosted_app()
