"""Completion in the shells themselves: each reads the printed script and starts the program for the answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gepp_audit.cli import COMMANDS
from gepp_audit.cli.completion import SHELLS
from tests.support.processes import Programs

Complete = Callable[[str], list[str]]

BASH = """
source {script}
words=({words} '{last}'); COMP_WORDS=("${{words[@]}}"); COMP_CWORD=$((${{#words[@]}} - 1))
compopt() {{ :; }}
_gepp_audit_completion gepp-audit; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# outside of its line editor zsh has no completion: the words that the script would offer are printed instead
ZSH = """
compdef() {{ :; }}
_describe() {{ for one in "${{(@P)3}}"; do print -r -- "${{one%%:*}}"; done }}
compadd() {{ while [[ $1 != -a ]]; do shift; done; print -rl -- "${{(@P)2}}" }}
_path_files() {{ print -r -- FILES }}
commands[gepp-audit]={program}
words=({words} '{last}'); CURRENT=${{#words[@]}}
source {script}
_gepp_audit_completion
"""
FISH = 'source {script}; complete --do-complete "{words} {last}"'


@pytest.fixture(params=SHELLS)
def complete(request: pytest.FixtureRequest, programs: Programs, tmp_path: Path) -> Complete:
    """What a shell offers behind a line."""
    shell = request.param
    script = tmp_path / f"completion.{shell}"
    script.write_text(programs.run("completion", shell).stdout, encoding="utf-8")
    program = Path(sys.executable).with_name("gepp-audit")
    found = shutil.which(shell)
    assert found is not None, f"{shell} is not installed; scripts/test does it as root on Debian"

    def ask(line: str) -> list[str]:
        words, _, last = line.rpartition(" ")
        form = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]
        text = form.format(script=script, words=words, last=last, program=program)
        quiet = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
        done = subprocess.run(
            [found, *quiet, "-c", text],
            cwd=tmp_path,
            env={"PATH": f"{program.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return [line.partition("\t")[0] for line in done.stdout.splitlines() if line]

    return ask


def test_a_shell_completes_commands(complete: Complete) -> None:
    assert set(complete("gepp-audit ")) == set(COMMANDS)
    assert complete("gepp-audit st") == ["stuck"]


def test_a_shell_completes_options_and_their_values(complete: Complete) -> None:
    assert complete("gepp-audit stuck --older") == ["--older-than"]
    assert complete("gepp-audit stuck --format p") == ["prometheus"]


def test_a_shell_completes_the_commands_below_a_command(complete: Complete) -> None:
    assert sorted(complete("gepp-audit limits ")) == ["clear", "set", "show"]


def test_completing_the_commands_imports_none_of_them(tmp_path: Path) -> None:
    script = (
        "import os, sys\nos.environ |= {'_GEPP_AUDIT_COMPLETE': 'bash_complete', 'COMP_WORDS': 'gepp-audit ', "
        "'COMP_CWORD': '1'}\nfrom gepp_audit.cli import main\ntry: main([], 'gepp-audit')\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name in ('sqlalchemy', 'rich', 'gepp_audit.cli.stuck')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "plain,process-queue" in done.stdout


def test_as_json_the_script_is_a_value(programs: Programs) -> None:
    told = programs.run("completion", "fish", "--json")
    assert json.loads(told.stdout) == {"shell": "fish", "script": programs.run("completion", "fish").stdout}


def test_another_shell_is_wrong_usage_that_names_the_three(programs: Programs) -> None:
    done = programs.run("completion", "tcsh")
    assert done.exit_code == 2
    assert all(shell in done.stderr for shell in SHELLS)
