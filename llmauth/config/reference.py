"""The settings table as Markdown, for the README: ``python -m llmauth.config.reference``."""

from __future__ import annotations

from .settings import TABLE, Setting, printed


def markdown() -> str:
    """Return the reference of all settings."""
    rows = ["| YAML | environment | flag | default | |", "|---|---|---|---|---|"]
    rows += [_row(setting) for setting in TABLE]
    return "\n".join(rows)


def _row(setting: Setting) -> str:
    flags = f"`{setting.flag}`" + (f" / `{setting.switch_off}`" if setting.switch_off else "")
    default = printed(setting.default)
    default = default if default == "none" else f"`{default}`"
    repeatable = ", repeatable" if setting.list_of else ""
    return (
        f"| `{setting.name}` | `{setting.env}` | {flags}{repeatable} | {default} | {setting.help} |"
    )


if __name__ == "__main__":
    print(markdown())
