"""The config file: YAML, read so that an error says where, what and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..exceptions import ConfigurationError
from ..providers.table import PROVIDERS
from ..redact.uris import uri_secrets
from .backends import backends_in_yaml
from .faults import Faults
from .keys import KEY_VARIABLE
from .names import nearest
from .settings import TABLE
from .values import kind_of, read_text

_SECRET_NAME = re.compile(
    r"(?i)(?:^|[._])(?:api_?keys?|keys?|password|passwd|secret|token)(?:$|\.)"
)
_QUOTES = "quotes have to be put around the value"
_ADVICE = (
    (r"found character '\\t'", "a tab stands there: YAML is indented with spaces"),
    (r"found character|scanning an alias|constructor for the tag|scanning a directive"
     r"|undefined alias|block scalar",
     f"the value begins with a sign that has a meaning in YAML: {_QUOTES}"),
    (r"mapping values are not allowed",
     f"either the line before lacks its ':', or it is not indented like that one; if a value holds "
     f"': ', {_QUOTES}"),
    (r"could not find expected ':'", "a name without ': ' and a value behind it"),
    (r"expected <block end>", "the line is not indented like those that it belongs to"),
    (r"stream end|unexpected end", "a quote or a bracket is not closed"),
    (r"a single document", "a second document begins, with '---': the file must be one"),
    (r"escape", "a backslash in double quotes: take single quotes"),
    (r"special characters", "a control character stands in it: save it as plain text"),
    (r"unhashable", "a list or a mapping stands where a name belongs"),
)  # fmt: skip
"""What PyYAML says, and what to do; it quotes what stands there, which may be a key."""


_MAPPINGS = frozenset(setting.name for setting in TABLE if setting.is_mapping)


class ConfigFile:
    """What a config file says.

    :param path: None for no file, which says nothing
    :param named_by: the flag or the variable that names it
    :param faults: takes what is wrong with it
    """

    def __init__(self, path: Path | None, named_by: str, faults: Faults) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        """Settings by their dotted names."""
        self.backends: dict[Any, Any] = {}
        self.known = path is None
        """False when it could not be read."""
        if path:
            with faults.collected():
                self._read(path, named_by, faults)

    def _read(self, path: Path, named_by: str, faults: Faults) -> None:
        text = read_text(path, f"Cannot read the config file {path} ({named_by})")
        content = _content(text, path)
        backends = content.pop("backends", None)
        try:
            flat = dict(_flattened(content))
        except RecursionError:
            raise ConfigurationError(f"{path}: a mapping holds itself.") from None
        self.known = True
        with faults.collected():
            self.backends = backends_in_yaml(backends, str(path))
        settings = {setting.name: setting for setting in TABLE}
        for name, value in flat.items():
            with faults.collected():
                if name not in settings:
                    _check_name(name, value, path)
                elif settings[name].secret and uri_secrets(str(value)):
                    raise ConfigurationError(
                        f"{path}: {name} holds a password. Set the URI in {settings[name].env} "
                        "instead."
                    )
                elif value not in (None, {}):
                    self.values[name] = value


def _content(text: str, path: Path) -> dict[Any, Any]:
    try:
        content = yaml.load(text, _Loader)  # nosec B506 (a SafeLoader)
    except RecursionError:
        raise ConfigurationError(f"{path}: what it holds is nested too deeply.") from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"{path}{where}: {_advice(exc)}.") from None
    if content is not None and not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: the file is {kind_of(content)}, not settings. A line is a name, a colon, a "
            "space and a value, as in 'default_backend: openai'."
        )
    return content or {}


def _advice(error: yaml.YAMLError) -> str:
    if isinstance(error, _Repeated):
        return str(error.problem)
    said = " ".join(
        str(getattr(error, part, None) or "") for part in ("context", "problem", "reason")
    )
    return next((advice for sign, advice in _ADVICE if re.search(sign, said)), "it is not YAML")


class _Repeated(yaml.MarkedYAMLError):
    """A name that stands in a mapping twice."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands there twice: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if before := lines.get(key.value):
                    raise _Repeated(
                        problem=f"'{key.value}' is repeated, after line {before}: remove one",
                        problem_mark=key.start_mark,
                    )
                lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _flattened(content: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and name not in _MAPPINGS:
            yield from _flattened(value, f"{name}.")
        else:
            yield name, value


def _check_name(name: str, value: Any, path: Path) -> None:
    """Refuse a name that is no setting's; an empty section says nothing."""
    names = [setting.name for setting in TABLE]
    within = [one for one in names if one.startswith(f"{name}.")]
    if within:
        if value not in (None, {}):
            raise ConfigurationError(
                f"{path}: '{name}' is {kind_of(value)}, and not a mapping: settings belong below "
                f"it, indented, as in '{within[0].removeprefix(name + '.')}: ...'."
            )
        return
    if above := next((one for one in names if name.startswith(f"{one}.")), None):
        raise ConfigurationError(f"{path}: '{above}' is a mapping, where one value belongs.")
    if _SECRET_NAME.search(name):
        backend = name.lower().removesuffix("_api_key")
        variable = f"{backend.upper()}_API_KEY" if backend in PROVIDERS else KEY_VARIABLE
        raise ConfigurationError(
            f"{path}: {name}: keys do not belong in the config file. "
            f"Set {variable}, or {variable}_FILE to the path of a file that holds it."
        )
    raise ConfigurationError(
        f"{path}: '{name}' is no setting.{nearest(name, [*names, 'backends'], _otherwise(name))}"
    )


def _otherwise(name: str) -> str | None:
    """Return the setting that has this name elsewhere: as a variable, a flag or an attribute."""
    word = name.rpartition(".")[2].lower().lstrip("-").replace("-", "_")
    for setting in TABLE:
        flag = setting.flag.lstrip("-").replace("-", "_")
        if word in (setting.env.lower(), flag, setting.attribute):
            return setting.name
    return None
