"""Run the proxy with ``python app.py``; ``flask run`` finds ``app`` here."""

from llmauth import create_app
from llmauth.cli import main

if __name__ == "__main__":
    main(prog_name="llmauth")
else:
    app = create_app()
