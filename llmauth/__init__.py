"""llmauth lets in to LLM APIs only those who hold the key."""

from .configuration import load
from .exceptions import ConfigurationError, LLMAuthError, RequestRefused
from .extension import LLMAuth
from .factory import create_app
from .proxy import proxy_blueprint
from .settings import Settings
from .version import __version__

__all__ = [
    "ConfigurationError",
    "LLMAuth",
    "LLMAuthError",
    "RequestRefused",
    "Settings",
    "__version__",
    "create_app",
    "load",
    "proxy_blueprint",
]
