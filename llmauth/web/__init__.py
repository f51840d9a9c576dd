"""Flask and WSGI: the application, the extension that guards other applications, the public pages.

WSGI environs come in and are handed, in Flask's terms, to `auth` and `proxy`; responses go out
through one door, which gives each its request id and its line in the access log.
"""
