"""The one table of settings.

Each field of :class:`Settings` is one setting: its name in YAML, its environment variable, its
flag, its default, its bounds and its help. Loading, ``--help``, ``help(llmauth.Settings)``, the
Flask configuration and the README's reference are all made from these fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import chain
from types import MappingProxyType
from typing import Any

from ..exceptions import ConfigurationError
from ..redact.messages import hidden
from ..redact.uris import uri_secrets
from .addresses import Network
from .backends import BackendSettings as BackendSettings
from .backends import BackendTable
from .contradictions import contradictions
from .faults import Faults
from .keys import KeySource, checked_key, distinct, hiding
from .values import (
    list_of,
    number,
    one_of,
    parse_bool,
    parse_bypass_path,
    parse_host,
    parse_mapping,
    parse_one_network,
    parse_optional_text,
    parse_origins,
    parse_proxy,
    parse_size,
    parse_storage_uri,
    parse_text,
    plain,
    sentence,
)

DEFAULT_THREADS = 256
"""Requests forwarded at a time. A thread that waits for a model costs about 60 KiB of memory, so
200 streams fit with room to spare; see docs/performance.md for the measurement."""

DEFAULT_MAX_REQUEST_BODY = 256 * 1024 * 1024
"""Bytes. Larger than any provider's own limit on an uploaded file that is sent in one request."""

DEFAULT_SHUTDOWN_TIMEOUT = 30.0
"""Seconds. Process managers commonly kill after 30 to 90 seconds."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class Setting:
    """How one setting is named, read and checked.

    :param parse: turns text, a YAML value or a list into the setting's value; raises ValueError
    :param list_of: what one item of a repeatable setting is, None for a single value
    :param secret: not shown in an error
    :param is_mapping: in the config file it is a mapping of its own
    """

    attribute: str
    name: str
    env: str
    flag: str
    help: str
    parse: Callable[[Any], Any]
    default: Any
    list_of: str | None = None
    switch_off: str | None = None
    secret: bool = False
    is_mapping: bool = False

    def parsed(self, raw: Any, origin: str) -> Any:
        """Return the setting's value.

        :param raw: a text, what YAML makes of one, or a value that was parsed already
        :raises ConfigurationError: naming the setting, where it came from and what is wrong
        """
        try:
            return self.parse(plain(raw))
        except ValueError as exc:
            value = "" if self.secret or self.list_of else f" '{raw}'"
            raise ConfigurationError(sentence(f"{self.name} ({origin}):{value} {exc}")) from None


def _setting(
    name: str,
    env: str,
    flag: str,
    default: Any,
    parse: Callable[[Any], Any],
    help: str,
    **more: Any,
) -> Any:
    meta = {"name": name, "env": env, "flag": flag, "parse": parse, "help": help, **more}
    return field(default=default, metadata=meta)


_BRUTE = "auth.brute_force_protection"
_FLAG = "--auth-brute-force"
_DAY = 86_400


# fmt: off
@dataclass(frozen=True)
class Settings:
    """The effective settings; immutable, and without secrets in their ``repr``.

    :func:`llmauth.load` makes them of the environment, the config file and what it is given. Made
    by hand they hold what is given here and defaults, read nothing else, and are checked alike.

    :param keys: pairs of a name, which may be logged, and a proxy key; or a mapping
    :param backends: by name; the built-in ones that are not among them are there as well
    :param key_sources: variables and files that the keys were read from, to be read again
    :param origins: where each setting comes from, by attribute
    :param notices: what the operator should know of the environment; :func:`warn` logs it
    :raises ConfigurationError: for values that cannot be used, naming each
    """

    disable_auth: bool = _setting(
        "auth.disable_auth", "DISABLE_AUTH", "--disable-auth", False, parse_bool,
        "Let everyone in without a key; for local development only.")
    allow_unauthenticated_network: bool = _setting(
        "auth.allow_unauthenticated_network", "ALLOW_UNAUTHENTICATED_NETWORK",
        "--allow-unauthenticated-network", False, parse_bool,
        "With --disable-auth: serve an address that others can reach, too.")
    trusted_ips: tuple[Network, ...] = _setting(
        "auth.trusted_ips", "TRUSTED_IPS", "--trusted-ip", (), list_of(parse_one_network),
        "Address or network that is never locked out; it still needs a key.", list_of="network")
    bypass_paths: tuple[str, ...] = _setting(
        "auth.bypass_paths", "BYPASS_PATHS", "--bypass-path", (), list_of(parse_bypass_path),
        "Exact path that needs no key: forwarded to the default backend with GET or HEAD, or a "
        "host application's own.", list_of="path")
    brute_force_enabled: bool = _setting(
        f"{_BRUTE}.enabled", "BRUTE_FORCE_PROTECTION_ENABLED", "--enable-brute-force-protection",
        True, parse_bool, "Lock out addresses that send wrong keys.",
        switch_off="--disable-brute-force-protection")
    max_failed_attempts: int = _setting(
        f"{_BRUTE}.max_failed_attempts", "BRUTE_FORCE_MAX_FAILED_ATTEMPTS",
        "--auth-max-failed-attempts", 5, number(int, 1, 10**9),
        "Wrong keys within the window that lock an address out.")
    ttl_seconds: int = _setting(
        f"{_BRUTE}.ttl_seconds", "BRUTE_FORCE_TTL_SECONDS", f"{_FLAG}-ttl", 900,
        number(int, 1, 30 * _DAY, "seconds"), "Length of the moving window in seconds.")
    initial_block_seconds: int = _setting(
        f"{_BRUTE}.initial_block_seconds", "BRUTE_FORCE_INITIAL_BLOCK_SECONDS",
        f"{_FLAG}-initial-block", 30, number(int, 1, 30 * _DAY, "seconds"),
        "Length of the first block in seconds.")
    block_multiplier: float = _setting(
        f"{_BRUTE}.block_multiplier", "BRUTE_FORCE_BLOCK_MULTIPLIER", f"{_FLAG}-multiplier", 2.0,
        number(float, 1, 1000), "Each further block is this many times longer.")
    max_block_seconds: int = _setting(
        f"{_BRUTE}.max_block_seconds", "BRUTE_FORCE_MAX_BLOCK_SECONDS", f"{_FLAG}-max-block", 3600,
        number(int, 1, 365 * _DAY, "seconds"), "Longest block in seconds.")
    storage_uri: str = _setting(
        f"{_BRUTE}.storage_uri", "BRUTE_FORCE_STORAGE_URI", f"{_FLAG}-storage", "memory://",
        parse_storage_uri, "Where failures are counted: memory://, redis://, valkey:// and more.",
        secret=True)
    ipv6_prefix: int = _setting(
        f"{_BRUTE}.ipv6_prefix", "BRUTE_FORCE_IPV6_PREFIX", f"{_FLAG}-ipv6-prefix", 64,
        number(int, 16, 128), "An IPv6 client is counted by its network of this prefix length.")
    host: str = _setting(
        "server.host", "APP_HOST", "--host", "127.0.0.1", parse_host,
        "Address to listen on, or a Unix socket: unix:/run/llmauth/llmauth.sock.")
    port: int = _setting(
        "server.port", "APP_PORT", "--port", 8000, number(int, 0, 65535),
        "Port to listen on; 0 picks a free one.")
    threads: int = _setting(
        "server.threads", "APP_THREADS", "--threads", DEFAULT_THREADS, number(int, 1, 4096),
        "Requests that are forwarded at a time, streams included.")
    max_request_body: int = _setting(
        "server.max_request_body", "APP_MAX_REQUEST_BODY", "--max-request-body",
        DEFAULT_MAX_REQUEST_BODY, parse_size, "Largest request body: bytes, or 512K, 256M, 1G.")
    shutdown_timeout: float = _setting(
        "server.shutdown_timeout", "APP_SHUTDOWN_TIMEOUT", "--shutdown-timeout",
        DEFAULT_SHUTDOWN_TIMEOUT, number(float, 0, _DAY, "seconds"),
        "Seconds that streams get to finish when the server is stopped.")
    keepalive_seconds: float = _setting(
        "server.keepalive_seconds", "APP_KEEPALIVE_SECONDS", "--keepalive-seconds", 0.0,
        number(float, 0, _DAY, "seconds"),
        "Seconds of silence after which an event stream gets a comment between two events, so that "
        "proxies in front keep the connection; 0 for none.")
    trusted_proxies: tuple[Network | str, ...] = _setting(
        "server.trusted_proxies", "TRUSTED_PROXIES", "--trusted-proxy", (), list_of(parse_proxy),
        "Address or network of a reverse proxy whose X-Forwarded-For is believed; "
        "unix for one that comes through a Unix socket.",
        list_of="network")
    cors_origins: tuple[str, ...] = _setting(
        "server.cors_origins", "CORS_ORIGINS", "--cors-origin", (), parse_origins,
        "Origin whose web pages may use this server, such as https://chat.example.com; * for all.",
        list_of="origin")
    default_backend: str = _setting(
        "default_backend", "LLM_BACKEND", "--default-backend", "openai", parse_text,
        "Backend of requests that name none.")
    database: str | None = _setting(
        "accounts.database", "LLMAUTH_DATABASE", "--database", None, parse_optional_text,
        "File with the keys that 'llmauth keys' makes, and with what they have used (SQLite).")
    prices: Mapping[str, Any] | None = _setting(
        "accounts.prices", "LLMAUTH_PRICES", "--prices", None, parse_mapping,
        "US dollars per million tokens by model, with wildcards; JSON outside of the config file: "
        '{"gpt-4o*": {"input": 2.5, "cached_input": 1.25, "output": 10}}.', is_mapping=True)
    keep_days: int = _setting(
        "accounts.keep_days", "LLMAUTH_KEEP_DAYS", "--keep-days", 90, number(int, 1, 36_500),
        "Days for which single requests are kept in the database; daily totals stay.")
    log_level: str = _setting(
        "logging.level", "LOG_LEVEL", "--log-level", "INFO", one_of(*LOG_LEVELS),
        f"One of {', '.join(LOG_LEVELS)}.")
    log_file: str | None = _setting(
        "logging.file", "LOG_FILE", "--log", None, parse_optional_text,
        "File for the log; standard error when not given.")
    log_format: str = _setting(
        "logging.format", "LOG_FORMAT", "--log-format", "text", one_of("text", "json"),
        "text, or json for one object a line.")
    capture_file: str | None = _setting(
        "logging.capture_file", "CAPTURE_FILE", "--capture-file", None, parse_optional_text,
        "File for the wire capture (JSON Lines); no capture when not given.")
    capture_max_bytes: int = _setting(
        "logging.capture_max_bytes", "CAPTURE_MAX_BYTES", "--capture-max-bytes", 64 * 1024**2,
        parse_size, "Size at which the capture file is rotated: bytes, or 512K, 256M, 1G.")
    capture_max_files: int = _setting(
        "logging.capture_max_files", "CAPTURE_MAX_FILES", "--capture-max-files", 5,
        number(int, 1, 1000), "Capture files that are kept.")

    keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    key_sources: tuple[KeySource, ...] = field(default=(), repr=False)
    backends: Mapping[str, BackendSettings] = field(default_factory=lambda: MappingProxyType({}))
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        origins, faults = dict(self.origins), Faults()
        known: tuple[tuple[str, str], ...] = ()
        with faults.collected():
            known = checked_keys(self.keys, origins.setdefault("keys", "Settings.keys"))
            self._set("keys", known)
        with hiding(key for _, key in known):
            for setting in TABLE:
                name = setting.attribute
                value = getattr(self, name)
                if value != setting.default and origins.get(name, "default") == "default":
                    origins[name] = f"Settings.{name}"
                with faults.collected():
                    self._set(name, setting.parsed(value, origins.setdefault(name, "default")))
            with faults.collected():
                backends = _checked_backends(self.backends, origins, complete=bool(self.origins))
                self._set("backends", MappingProxyType(backends))
            self._set("origins", MappingProxyType(origins))
            faults.refuse()
            faults.add(*contradictions(self))
            faults.refuse()

    def _set(self, attribute: str, value: Any) -> None:
        object.__setattr__(self, attribute, value)

    def __repr__(self) -> str:
        values = (f"{s.attribute}={printed(getattr(self, s.attribute))}" for s in TABLE)
        names = ", ".join(name for name, _ in self.keys)
        text = f"Settings({', '.join(values)}, keys=({names}), backends={dict(self.backends)})"
        return hidden(text, self.secrets)

    def uses(self, backend: BackendSettings) -> bool:
        """True for a backend that somebody configured; the others are there for own keys."""
        given = f"backends.{backend.name}.base_url" in self.origins
        own = given or backend.api_key or backend.headers
        return bool(own) or backend.name == self.default_backend

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret given to the process: proxy keys, provider keys, what headers of backends
        hold, passwords in URIs."""
        uris = [self.storage_uri]
        for backend in self.backends.values():
            uris += [backend.base_url, backend.proxy or ""]
        passwords = [secret for uri in uris for secret in uri_secrets(uri)]
        own = [(b.api_key, *b.header_secrets) for b in self.backends.values()]
        return tuple(filter(None, [*(key for _, key in self.keys), *chain(*own), *passwords]))
# fmt: on


def checked_keys(keys: Any, origin: str) -> tuple[tuple[str, str], ...]:
    """Return pairs of a name and a key, each of which a client can send."""
    given = keys.items() if isinstance(keys, Mapping) else keys
    pairs = []
    for pair in given if isinstance(given, Iterable) else (given,):
        if (
            not isinstance(pair, (tuple, list))
            or len(pair) != 2
            or not all(isinstance(part, str) and part for part in pair)
        ):
            raise ConfigurationError(f"{origin}: a key is a pair of texts, its name and itself.")
        pairs.append((pair[0], checked_key(pair[1], f"{origin}: {pair[0]}")))
    return distinct(pairs)


def _checked_backends(
    given: Any, origins: dict[str, str], *, complete: bool
) -> dict[str, BackendSettings]:
    """Return the backends by name.

    :param complete: none are there beside those given
    """
    backends = {}
    if not complete:
        table = BackendTable({}, Faults())
        backends = table.finished()
        origins |= table.origins
    for name, backend in given.items() if isinstance(given, Mapping) else [(given, None)]:
        if not isinstance(backend, BackendSettings) or backend.name != name:
            raise ConfigurationError(
                f"Settings.backends: '{name}' is no BackendSettings of that name; llmauth.load "
                "takes URLs and mappings."
            )
        backends[name] = backend
        if not complete:
            origins[f"backends.{name}.base_url"] = "Settings.backends"
    return backends


TABLE: tuple[Setting, ...] = tuple(
    Setting(attribute=one.name, default=one.default, **one.metadata)
    for one in fields(Settings)
    if one.metadata
)
"""All settings in the order of the documentation."""

ATTRIBUTES = tuple(setting.attribute for setting in TABLE)

_CONFIGURED = "\n".join(
    f"    :param {s.attribute}: {s.help} (default: {s.default if s.default != () else 'none'})"
    for s in TABLE
)
_BEFORE = "    :param keys:"
Settings.__doc__ = (Settings.__doc__ or "").replace(_BEFORE, f"{_CONFIGURED}\n{_BEFORE}")


def printed(value: Any) -> str:
    """Return a setting's value for people to read, secrets masked."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return hidden(text)
