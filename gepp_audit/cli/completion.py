"""`gepp-audit completion SHELL`: the script that lets a shell complete commands, options and files.

The script is click's own (https://click.palletsprojects.com/en/stable/shell-completion/): it starts `gepp-audit` with
`_GEPP_AUDIT_COMPLETE` set, which answers from the same parameters as `--help`, without reading a setting.
"""

from __future__ import annotations

from typing import Final

import click

from gepp_audit.cli.options import json_option
from gepp_audit.cli.render import Result

SHELLS: Final = ("bash", "zsh", "fish")
_PROGRAM: Final = "gepp-audit"
_VARIABLE: Final = "_GEPP_AUDIT_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
@json_option
@click.pass_context
def completion(context: click.Context, shell: str) -> Result:
    """Print the script that completes gepp-audit's commands and options in a shell.

    \b
    bash: gepp-audit completion bash > /etc/bash_completion.d/gepp-audit   (bash 4.4 or newer)
    zsh:  gepp-audit completion zsh > a folder of $fpath, under the name _gepp-audit
    fish: gepp-audit completion fish > ~/.config/fish/completions/gepp-audit.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, _PROGRAM, _VARIABLE)
    # not `source()`: for bash that starts the bash of this machine, to look whether it is new enough
    text = script.source_template % script.source_vars()
    return Result(data={"shell": shell, "script": text}, text=[text.rstrip("\n")])
