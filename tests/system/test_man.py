"""The manual page: a program that checks such pages finds nothing, and it says what `--help` says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import click
import pytest

from gepp_audit.cli import COMMANDS, main
from gepp_audit.cli.man import page
from gepp_audit.cli.setting_words import WORDS
from gepp_audit.settings import ENV_FILE_VARIABLE, Settings
from tests.support.processes import Programs


def mandoc(*args: str, text: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("mandoc")
    assert program is not None, "mandoc is not installed; scripts/test does it as root on Debian"
    return subprocess.run([program, *args], input=text, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def shown() -> str:
    """The page as a person reads it."""
    done = mandoc("-T", "utf8", "-O", "width=120", text=page(click.Context(main, info_name="gepp-audit")))
    return re.sub(r".\x08", "", done.stdout)


def test_the_checker_of_manual_pages_finds_nothing(programs: Programs) -> None:
    done = programs.run("man")
    assert (done.exit_code, done.stderr) == (0, "")
    checked = mandoc("-T", "lint", "-W", "warning", text=done.stdout)
    # a date would make it another page each day
    assert [line for line in checked.stdout.splitlines() if "missing date" not in line] == []


def test_the_page_is_plain_ascii_with_lines_of_a_readable_length(programs: Programs) -> None:
    lines = programs.run("man").stdout.splitlines()
    assert all(line.isascii() for line in lines)
    assert max(map(len, lines)) < 200
    # else a reader that knows typography shows another character, which cannot be typed or searched for
    assert not [line for line in lines if re.search(r"(?<!\\)-", line)]


def commands(above: click.Context) -> Iterator[click.Context]:
    assert isinstance(above.command, click.Group)
    for name in above.command.list_commands(above):
        command = above.command.get_command(above, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=above)
        yield context
        if isinstance(command, click.Group):
            yield from commands(context)


def test_each_command_option_and_sentence_of_the_help_stands_in_it(shown: str) -> None:
    root = click.Context(main, info_name="gepp-audit")
    one_line = " ".join(shown.split())
    for context in (root, *commands(root)):
        assert f"{context.command_path} {' '.join(context.command.collect_usage_pieces(context))}" in one_line
        for parameter in context.command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None:
                assert " ".join(" ".join(record).split()) in one_line
        for paragraph in (context.command.help or "").split("\n\n"):
            assert " ".join(paragraph.replace("\b", "").split()) in one_line


def test_each_command_has_its_heading(shown: str) -> None:
    assert set(re.findall(r"^   gepp-audit ([a-z-]+)$", shown, re.MULTILINE)) == set(COMMANDS)


def test_each_setting_is_explained() -> None:
    assert set(WORDS) == {variable for variable, _, _ in Settings().rows()} | {ENV_FILE_VARIABLE}
