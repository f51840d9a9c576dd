"""What the operator should be told, and is no fault: what is not read, and what is not meant.

The environment is everybody's: whatever it holds of others never stops a start.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from ..providers.table import PROVIDERS
from ..redact.messages import hidden
from .addresses import Network
from .backend_headers import HEADER_SUFFIX
from .backends import BASE_URL_SUFFIX, PROXY_SUFFIX, BackendSettings, variable_of
from .keys import KEY_VARIABLE, about_key, secrets_in
from .placeholders import is_dummy, is_sample, is_variable
from .settings import TABLE, Settings

_OURS = re.compile(r"LLM_?INTERACTIVE_?PROXY|LLMAUTH_|BRUTE_?FORCE_")
"""Nobody else's names begin so."""

_READ = {*(setting.env for setting in TABLE), KEY_VARIABLE, "LLMAUTH_CONFIG"}
_ELSEWHERE = {
    name: setting.env
    for setting in TABLE
    for other in (setting.attribute, setting.flag, setting.name, setting.env)
    for words in [re.sub(r"\W+", "_", other.strip("-")).upper()]
    for name in [f"LLMAUTH_{words}", words]
    if name.count("_") > 1 or name.startswith("LLMAUTH_")  # other short ones are many a program's
}
"""Our variables, by how the same settings are called in Flask, in YAML and as flags."""

_KUBERNETES = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
_LINK = re.compile(r".*_(?:SERVICE_(?:HOST|PORT)\w*|PORT_\d+_(?:TCP|UDP|SCTP)\w*)")

_KIN = {
    BASE_URL_SUFFIX: re.compile(r"(?:API)?(?:BASE|BASEPATH|(?:BASE)?UR[LI]S?|ENDPOINT|HOST)"),
    "_API_KEY": re.compile(r"(?:API|SECRET|ACCESS|AUTH)?(?:KEY|TOKEN)S?(?:FILES?)?"),
    "_TIMEOUT": re.compile(r"(?:API|REQUEST|READ|CONNECT|HTTP)?TIMEOUT(?:MS|S|SECS|SECONDS)?"),
    PROXY_SUFFIX: re.compile(r"(?:API)?(?:HTTPS?)?PROXY(?:URL)?"),
}
"""Ends of names, without their underscores, that other programs have for what ours end in."""

_ALIASES = {
    "gemini": r"(?:GOOGLE)?(?:GEMINI|GENAI|GENERATIVEAI)|GOOGLEAI|GOOGLE(?=API)",
    "anthropic": "ANTHROPIC|CLAUDE",
    "xai": "XAI|GROK",
    "mistral": "MISTRAL(?:AI)?",
    "azure-openai": "AZURE(?:OPENAI|OAI)|AZURE(?=API)",
    "openai": "OPENAI|OAI",
}
"""How others call the built-in backends, without underscores."""

_NEAR = 0.85
_ALIKE = 0.6
"""Of 1, how like one another names are, one of which was meant for the other."""

_LONG_ENOUGH = 5
"""Characters of a name that can be misspelt without being another."""

_PATTERN = re.compile(r"[*{}<>\[\]^|]|/:")
_WIDEST = {4: 8, 6: 16}
"""Bits of a prefix; the networks of organisations are no wider."""

_LOCAL = IPv6Network("fc00::/7")


def is_kubernetes(value: str) -> bool:
    """True for what Kubernetes sets as ``APP_PORT`` where there is a service named ``app``."""
    return _KUBERNETES.fullmatch(value) is not None


def about_environment(
    environ: Mapping[str, str],
    backends: Mapping[str, BackendSettings],
    ignored: Mapping[str, str],
) -> tuple[str, ...]:
    """Return what is not read of the environment, and may have been meant.

    :param backends: as they were loaded
    :param ignored: variables that make no backend, and why
    """
    notices = []
    if ignored:
        named = ", ".join(f"{variable} ({reason})" for variable, reason in ignored.items())
        notices.append(f"not read as the base URL of a backend: {named}")
    for backend in backends.values():
        variable = backend.api_key_env
        if environ.get(variable, "").strip() and environ.get(f"{variable}_FILE", "").strip():
            notices.append(
                f"{variable} and {variable}_FILE are both set: the first is used, and the file is "
                "not read. Set one of them."
            )
    names = _Names(backends)
    for variable, value in environ.items():
        if variable in ignored or not value.strip():
            continue
        if is_kubernetes(value.strip()) or _LINK.fullmatch(variable):
            if variable in _READ:
                notices.append(f"{variable} is not read: it is what Kubernetes says of a service")
        elif meant := names.about(variable, environ):
            notices.append(meant)
    notices += _about_proxies(environ, backends)
    return tuple(hidden(notice, secrets_in(environ)) for notice in notices)


class _Names:
    """The names of the variables that are read, and those that others have for the same.

    :param backends: as they were loaded
    """

    def __init__(self, backends: Mapping[str, BackendSettings]) -> None:
        self._stems = {variable_of(name): name for name in (*PROVIDERS, *backends)}
        self._stems.pop("ECHO", None)
        keys = {f"{stem}_API_KEY" for stem in self._stems}
        keys |= {backend.api_key_env for backend in backends.values()}
        suffixes = (BASE_URL_SUFFIX, "_TIMEOUT", PROXY_SUFFIX, "_REDIRECTS", HEADER_SUFFIX)
        self._of_backends = {stem + suffix for stem in self._stems for suffix in suffixes}
        self._of_backends |= keys | {f"{key}_FILE" for key in keys}

    def about(self, variable: str, environ: Mapping[str, str]) -> str | None:
        """Say which variable was meant by one that is not read; None when it is not for us."""
        known = _READ | self._of_backends
        if variable in known or variable.startswith(f"{KEY_VARIABLE}_"):
            return None
        name = re.sub(r"^\W*(?:EXPORT\s+)?|\W+$", "", variable.upper()).replace("-", "_")
        ours = _OURS.match(name) is not None
        meant = name if name in known else self._of_another_program(name)
        meant = meant or _nearly(name, ours) or self._misspelt(name)
        if meant and not ours and (environ.get(meant) or environ.get(f"{meant}_FILE")):
            return None  # for a client, or for somebody else, on this machine
        if meant:
            return f"{variable} is not read. Did you mean {meant}?"
        return f"{variable} is not read: there is no such setting" if ours else None

    def _of_another_program(self, name: str) -> str | None:
        """Return our variable for one that an SDK or another proxy has for the same."""
        joined = name.replace("_", "")
        for stem, backend in self._stems.items():
            alias = re.match(_ALIASES.get(backend, stem.replace("_", "")), joined)
            for suffix, kin in _KIN.items():
                if alias and kin.fullmatch(joined, alias.end()):
                    return stem + suffix
        return None

    def _misspelt(self, name: str) -> str | None:
        """Return a backend's variable whose stem is nearly this one's."""
        for suffix in ("_API_KEY", "_API_KEY_FILE", BASE_URL_SUFFIX):
            stem = name.removesuffix(suffix)
            if stem == name or len(stem) < _LONG_ENOUGH:
                continue
            if close := difflib.get_close_matches(stem, self._stems, 1, _NEAR):
                return close[0] + suffix
        return None


def _nearly(name: str, ours: bool) -> str | None:
    """Return our variable that one is nearly: called otherwise, misspelt, or a word more or less.

    :param ours: it is nobody else's in any case
    """
    if meant := _ELSEWHERE.get(name):
        return meant
    if name.startswith("LLMAUTH_") and "KEY" in name:
        return KEY_VARIABLE
    if close := difflib.get_close_matches(name, _READ, 1, _ALIKE if ours else _NEAR):
        return close[0]
    return next((known for known in sorted(_READ) if _a_word_apart(name, known)), None)


def _a_word_apart(name: str, known: str) -> bool:
    one, other = name.split("_"), known.split("_")
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    without = (longer[:at] + longer[at + 1 :] for at in range(1, len(longer)))
    begins = len(other) > 1 and len(known) >= 2 * _LONG_ENOUGH and name.startswith(known)
    return begins or (len(shorter) > 1 and shorter in without)


def _about_proxies(
    environ: Mapping[str, str], backends: Mapping[str, BackendSettings]
) -> Iterator[str]:
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    there = [name for name in names if environ.get(name)]
    if there and not any(backend.proxy for backend in backends.values()):
        yield (
            f"{', '.join(there)}: not read. A backend behind a proxy needs its own variable, such "
            f"as OPENAI{PROXY_SUFFIX}."
        )


def about_settings(settings: Settings) -> Iterator[str]:
    """Yield what is not forbidden, and hardly meant."""
    if settings.disable_auth:
        yield f"authentication is off: everyone who reaches {settings.host} is let in"
    yield from _about_networks(settings)
    for path in settings.bypass_paths:
        named = path[1:].partition("/")[0]
        if _PATTERN.search(path):
            yield (
                f"bypass_paths ({settings.origins['bypass_paths']}): '{path}' is one exact path, "
                "whose signs stand for themselves: name every page"
            )
        if named in settings.backends and named != settings.default_backend:
            yield (
                f"bypass_paths: '{path}' of the proxy needs a key nevertheless: it names the "
                f"backend '{named}', and only the default one is served without"
            )
    for name, key in settings.keys:
        if weak := about_key(name, key):
            yield weak
    for backend in settings.backends.values():
        if backend.api_key and (what := _no_provider_key(backend)):
            where = settings.origins.get(f"backends.{backend.name}.api_key", "Settings.backends")
            yield f"backend {backend.name}: its key ({where}) is {what}, which no provider gave"


def _no_provider_key(backend: BackendSettings) -> str | None:
    key, provider = backend.api_key or "", PROVIDERS.get(backend.name)
    if is_dummy(key):  # which servers without keys want
        return "a placeholder" if provider and provider.needs_key else None
    if is_sample(key):
        return "a placeholder"
    return "the name of a variable" if is_variable(key) else None


def _about_networks(settings: Settings) -> Iterator[str]:
    for attribute, means in (
        ("trusted_proxies", "any client may say which address it has, and is never locked out"),
        ("trusted_ips", "nobody there is ever locked out"),
    ):
        for network in _wide(getattr(settings, attribute)):
            yield f"{attribute} ({settings.origins[attribute]}): {network} is the internet: {means}"


def _wide(networks: Collection[Network | str]) -> list[Network]:
    v4 = [one for one in networks if isinstance(one, IPv4Network)]
    v6 = [one for one in networks if isinstance(one, IPv6Network) and not one.subnet_of(_LOCAL)]
    joined: list[Network] = [*collapse_addresses(v4), *collapse_addresses(v6)]
    return [one for one in joined if one.prefixlen < _WIDEST[one.version]]
