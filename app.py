"""Run the proxy with ``python app.py``; ``flask run`` finds ``app`` here."""

from llmauth.cli import main
from llmauth.cli.hosting import hosted_app

if __name__ == "__main__":
    main(prog_name="llmauth")
else:
    app = hosted_app()
