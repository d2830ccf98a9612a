"""The help of every command: what it must say, what it must not, and what it must not load."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from itertools import groupby

import pytest
from deadlines import DEADLINE

from manyhands.cli.catalogue import COMMANDS, GROUPS, every
from manyhands.cli.declared import declared
from manyhands.cli.main import run

CALLS = {" ".join(words): entry for words, entry in every().items()}
HEAVY = ("torch", "numpy", "scipy", "rich", "starlette", "uvicorn", "typeguard", "asyncio")
MEANS_ITS_OWN = {
    "--json": "what is printed differs, and is listed",
    "--output": "the formats differ, and are listed",
    "--hosts": "N counts workers of a run, and slots of a controller",
    "--workers": "a job of the controller may have MIN:MAX",
    "--to": "hosts that a job moves to, and the format that a run is converted to",
    "--cluster": "simulate also takes HOSTSxSLOTS",
    "--port": "the controller's is also said to be that of its page",
    "CLUSTER": "a lab needs links that can be emulated",
}
"""Names whose help may differ from command to command, and why."""
FORM = re.compile(r"[A-Za-z0-9_=.,;:|/\[\]-]+")
"""How values are written: one word, whose capitals stand for something (docs/cli.md)."""


def shown(capsys, call: str) -> str:
    assert run([*call.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("call", CALLS)
def test_what_a_help_page_says(call, capsys):
    text = shown(capsys, call)
    assert text.startswith(f"usage: manyhands {call} ")
    assert CALLS[call].summary in text
    assert "None" not in text and "(default: )" not in text
    for each in declared(CALLS[call].load()):
        assert each.help.endswith("."), f"{each.name}: {each.help!r}"
        assert each.help[0].isupper() or each.help[0] == "`", f"{each.name}: {each.help!r}"
        assert "efault" not in each.help, f"{each.name}: its default is said twice"
        assert FORM.fullmatch(each.form), f"{each.name}: {each.form}"


@pytest.mark.parametrize("call", CALLS)
def test_the_list_of_commands_has_each_ones_first_sentence(call):
    assert (CALLS[call].load().__doc__ or "").split("\n")[0] == CALLS[call].summary


def test_a_name_means_the_same_everywhere():
    meanings = defaultdict(dict)
    for call, entry in CALLS.items():
        for each in declared(entry.load()):
            meanings[each.name].setdefault(each.help, []).append(call)
    differ = {name: texts for name, texts in meanings.items() if len(texts) > 1}
    assert differ.keys() == MEANS_ITS_OWN.keys()
    for call, entry in CALLS.items():
        names = [each.name for each in declared(entry.load())]
        names += [each.option.short for each in declared(entry.load()) if each.option.short]
        assert [name for name, same in groupby(sorted(names)) if len(list(same)) > 1] == [], call


def test_all_commands_in_groups(capsys):
    for arguments, code in ((["--help"], 0), (["help"], 0), ([], 2)):
        assert run(arguments) == code
        said = capsys.readouterr()
        text = said.err if code else said.out
        at = [text.index(f"\n{title}:\n") for title in GROUPS]
        assert at == sorted(at)
        for name, entry in COMMANDS.items():
            assert re.search(rf"\n  {name} +{re.escape(entry.summary)}\n", text)
        assert max(map(len, text.splitlines())) <= 100
    for name, entry in COMMANDS.items():
        if entry.inner:
            inner = shown(capsys, name)
            assert all(f"  {each} " in inner for each in entry.inner)


def test_the_version(capsys):
    from manyhands import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"manyhands {__version__}\n"


LOOK = """
import contextlib, io, sys
from manyhands.cli.main import run
for call in ["", *sys.argv[2:]]:
    with contextlib.redirect_stdout(io.StringIO()):
        assert run([*call.split(), "--help"]) == 0
    heavy = [name for name in eval(sys.argv[1]) if name in sys.modules]
    heavy += ["tyro"] if not call and "tyro" in sys.modules else []
    print((call, heavy))
"""


def test_help_loads_nothing_heavy():
    """Nor does the list of commands need the parser."""
    command = [sys.executable, "-c", LOOK, repr(HEAVY), *CALLS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    loaded = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert loaded == [(call, []) for call in ("", *CALLS)]
