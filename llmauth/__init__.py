"""llmauth lets in to LLM APIs only those who hold the key."""

from .config.loading import load
from .config.settings import BackendSettings, Settings
from .exceptions import ConfigurationError, LLMAuthError, RequestRefused
from .version import __version__
from .web.app import create_app
from .web.blueprint import proxy_blueprint
from .web.extension import LLMAuth, current_key

__all__ = [
    "BackendSettings",
    "ConfigurationError",
    "LLMAuth",
    "LLMAuthError",
    "RequestRefused",
    "Settings",
    "__version__",
    "create_app",
    "current_key",
    "load",
    "proxy_blueprint",
]
