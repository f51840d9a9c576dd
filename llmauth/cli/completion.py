"""Completion of commands and options in shells, as click has it; PowerShell's in the same way."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
)

PROGRAM, VARIABLE = "llmauth", "_LLMAUTH_COMPLETE"
SHELLS = ("bash", "zsh", "fish", "powershell")


class _PowerShell(ShellComplete):
    """Windows PowerShell 5.1 and newer, which is told by variables what has been typed."""

    name: ClassVar[str] = "powershell"
    source_template: ClassVar[str] = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($word, $line, $at)
    $env:%(complete_var)s = 'powershell_complete'
    $env:COMP_WORDS = "$line"
    $env:COMP_WORD = $word
    try {
        %(prog_name)s | ForEach-Object {
            $value, $help = $_ -split "`t", 2
            if (-not $help) { $help = $value }
            [System.Management.Automation.CompletionResult]::new(
                $value, $value, 'ParameterValue', $help)
        }
    } finally {
        Remove-Item Env:%(complete_var)s, Env:COMP_WORDS, Env:COMP_WORD -ErrorAction Ignore
    }
}
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        incomplete = os.environ.get("COMP_WORD", "")
        words = os.environ.get("COMP_WORDS", "").split()[1:]
        if incomplete and words and words[-1] == incomplete:
            words.pop()
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.value}\t{item.help or ''}"


add_completion_class(_PowerShell)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what completes commands and options in a shell.

    \b
    bash:        eval "$(llmauth completion bash)"              in ~/.bashrc
    zsh:         eval "$(llmauth completion zsh)"               in ~/.zshrc
    fish:        llmauth completion fish | source               in ~/.config/fish/config.fish
    PowerShell:  llmauth completion powershell | Out-String | Invoke-Expression    in $PROFILE
    """
    known: Any = get_completion_class(shell)
    click.echo(known(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
