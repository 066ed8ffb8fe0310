#!/usr/bin/env python3
"""Conversations rendered by published chat templates; the replay is tests/unit/test_chat.c.

    tests/oracle/chat.py DIR

DIR holds the templates' texts as NAME.jinja, taken from tokenizer_config.json of the checkpoints; they are not kept here.
They run in Jinja as transformers sets it up (apply_chat_template without tools or a generation prompt). Writes
tests/oracle/chat/vectors.jsonl: a line of conversations, then a line for each template with its digest and its texts, null
where it raises an exception.

One template prints today's date where strftime_now is defined; it is not, so that its own default comes out.
"""
import hashlib
import json
import os
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat", "vectors.jsonl")
BOS, EOS = "<s>", "</s>"


def talk(*parts):
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": names[p[0]], "content": p[1]} | ({"reasoning_content": p[2]} if len(p) > 2 else {}) for p in parts]


CONVERSATIONS = [
    talk(("u", "Hello")),
    talk(("u", "Hello"), ("a", "Hi there")),
    talk(("s", "Be brief."), ("u", "Who are you?"), ("a", "Nobody.")),
    talk(("s", "  spaced \n"), ("u", "\n  two\nlines \u3000"), ("a", " \tanswer  "), ("u", "more? "), ("a", "\nyes\n")),
    talk(("s", ""), ("u", ""), ("a", "")),
    talk(("u", "caf\u00e9 <|im_end|> [INST] \u65e5\u672c"), ("a", "\\n is two characters, {{ bos_token }} many"), ("u", "last")),
    talk(("s", "only the system")),
    talk(("u", "one"), ("u", "two"), ("a", "x"), ("a", "y")),
    talk(("u", "q"), ("s", "late system"), ("a", "ok")),
    talk(("a", "answer first"), ("u", "then a question")),
    talk(("u", "2+2?"), ("a", "<think>\nadd them\n</think>\n\n4")),
    talk(("u", "2+2?"), ("a", "<think>\nadd them\n</think>\n\n4"), ("u", "and 3+3?"), ("a", "<think>\n\n</think>\n\n6")),
    talk(("u", "q"), ("a", "</think>\n\n\nx</think>\ny"), ("u", "<tool_response>r</tool_response>"), ("a", "<think>a<think>b</think>c")),
    talk(("u", "q"), ("a", "\n\nplain"), ("a", "<think>t</think>second")),
]
REASONING = [
    talk(("u", "q"), ("a", "4", "\nbecause\n")),
    talk(("u", "q"), ("a", "<think>x</think>4", ""), ("u", "r"), ("a", "\n5", "why")),
]


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def render(text, conversation):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.globals["raise_exception"] = raise_exception
    try:
        return env.from_string(text).render(messages=conversation, bos_token=BOS, eos_token=EOS, add_generation_prompt=False)
    except jinja2.exceptions.TemplateError:
        return None


def main():
    folder = sys.argv[1]
    with open(OUT, "w") as f:
        f.write(json.dumps({"jinja2": jinja2.__version__, "bos": BOS, "eos": EOS, "conversations": CONVERSATIONS + REASONING}) + "\n")
        for name in sorted(os.listdir(folder)):
            text = open(os.path.join(folder, name), encoding="utf-8").read()
            digest = hashlib.sha256(text.replace("\\n", "\n").rstrip().encode()).hexdigest()
            texts = [render(text, c) for c in CONVERSATIONS]
            texts += [render(text, c) if "reasoning_content" in text else None for c in REASONING]
            f.write(json.dumps({"template": name.removesuffix(".jinja"), "sha256": digest, "texts": texts}) + "\n")


main()
