# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command table as the command itself tells it, and words that fit any row of it: what holds for
every command is tested of every command, those that are added later too."""
import json

from stasistest import stasis

ID = "01jq4z7k2m0000000000000001"
NO_VM = "nosuch"
NO_PROGRAM = "/nonexistent/program"

# A value for each completer: right in its form, and of nothing that is there.
_VALUES = {"none": "1", "vm": NO_VM, "image": ID, "process-image": ID, "any-image": ID, "files": "/nonexistent/file", "file": "/nonexistent/file",
           "directory": "/nonexistent/directory", "topic": "list"}
# What a command needs besides so that it ends.
_ENDING = {"web": ["--listen=/nonexistent/directory/socket"]}


def table():
    return json.loads(stasis("help", "--json").out)["result"]


def option_value(option):
    if option["completer"] == "choice":
        return option["value"].split("|")[0]
    return _VALUES[option["completer"]]


def words_for(command):
    """The fewest words that make a row of the table a command line without an error of usage."""
    words, behind = list(_ENDING.get(command["name"], [])), []
    for option in command["options"]:
        if option["required"]:
            words += [f"--{option['name']}", option_value(option)]
    for argument in command["arguments"]:
        if argument["arity"] == "behind-dashes":
            behind = ["--", NO_PROGRAM]
        elif argument["arity"] in ("one", "some"):
            words.append(_VALUES[argument["completer"]])
    return words + behind
