"""Do the Python scripts of the pages know the options that the pages give them? Reads "page<TAB>command" lines; needs none of the packages
that the scripts import: their parsers are built again from the add_argument calls in their text.

    documented_options.py REPOSITORY <commands
"""
import argparse
import ast
import os
import shlex
import sys


def value(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None  # a type, a path made from others: which words are options does not depend on it


def parser_of(path):
    parser = argparse.ArgumentParser(prog=os.path.basename(path), add_help=True)
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read(), path)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            kept = {k.arg: value(k.value) for k in call.keywords if k.arg in ("action", "choices", "nargs", "required", "dest")}
            parser.add_argument(*[value(a) for a in call.args], **{k: v for k, v in kept.items() if v is not None})
    return parser


def script_of(repository, page, words):
    for i, word in enumerate(words):
        if word.endswith(".py"):
            for place in repository, os.path.join(repository, os.path.dirname(page)):
                path = os.path.join(place, word)
                if os.path.exists(path):
                    return path, words[i + 1:]
            sys.exit("%s: no %s" % (page, word))
    return None, []


def main():
    checked = 0
    for line in sys.stdin:
        page, command = line.rstrip("\n").split("\t")
        path, words = script_of(sys.argv[1], page, shlex.split(command))
        if path:
            parser_of(path).parse_args(words)  # ends the program where a word does not fit
            checked += 1
    print(checked)


main()
