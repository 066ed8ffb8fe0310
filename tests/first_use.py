"""Is every term of the glossary linked where a page first uses it?  first_use.py GLOSSARY PAGE...

Prints "PAGE: TERM: the text around the first use" for each that is not. Code, headings, pictures, quotations and the texts of other links are no
use of a term; nor are everyday senses, listed with the term below.
"""
import os
import re
import sys

# term: what it looks like in a text, and everyday senses of the same word
TERMS = {
    "activation": (r"activations?", []),
    "bits per weight": (r"bits (?:a|per) weight", []),
    "budget": (r"budgets?", []),
    "calibration data": (r"calibration data", []),
    "candidate": (r"candidates?", []),
    "cell": (r"cells?", []),
    "divergence (KL)": (r"divergences?", []),
    "format": (r"formats?", [r"file formats?", r"formats? of (?:a |the )?files?"]),
    "frontier": (r"frontiers?", []),
    "granularity": (r"granularit(?:y|ies)", []),
    "group": (r"groups?", [r"is a \*group\*", r"parity group", r"group by group", r"that group"]),
    "manifest": (r"manifests?", []),
    "pair": (r"pairs?", [r"pair j", r"the pairs that turn"]),
    "recipe": (r"recipes?", [r"rules and recipes", r"run by recipes"]),
    "scheme": (r"schemes?", [r"one scheme for"]),
    "selection": (r"selections?", []),
    "sensitivity, score": (r"sensitivit(?:y|ies)|scores?", [r"caps of\s+scores"]),
    "size": (r"data sizes?|sizes", [r"(?:odd|block|different) sizes"]),
    "store": (r"(?<=the )store|(?<=a )store|(?<=one )store", []),
    "sweep": (r"sweeps?", [r"\*\*sweep\*\*"]),
    "treatment": (r"treatments?", []),
}


def anchor(term):
    return re.sub(r"[^a-z]+", "-", term.split(",")[0].split(" (")[0])


def blank(match):
    return re.sub(r"[^\n]", "\0", match.group())


def masked(text, glossary):
    """The text with all that is no use of a term blanked, and what is linked to the glossary marked by \\1."""
    text = re.sub(r"^```.*?^```$", blank, text, flags=re.M | re.S)
    text = re.sub(r"^#.*$", blank, text, flags=re.M)
    text = re.sub(r"`[^`]*`", blank, text)
    text = re.sub(r'"[^"\n]*"', blank, text)
    text = re.sub(r"\b[A-Z]{2,}\b", blank, text)
    text = re.sub(r"<[^>\n]*>", blank, text)
    return re.sub(r"!?\[([^\]]*)\]\(([^)]*)\)", lambda m: blank(m) if glossary not in m.group(2) else
                  re.sub(r"[^\n]", "\1", m.group()), text)


def linked(text, entry):
    """Where the links to an entry are."""
    return [(m.start(), m.end()) for m in re.finditer(r"\[[^\]]*\]\([^)]*glossary\.md#" + entry + r"\)", text)]


def unlinked(text):
    """Each term whose first use is not linked: (term, begin, end)."""
    bare = masked(text, "glossary.md#")
    for term, (word, everyday) in TERMS.items():
        own = bare
        for sense in everyday:
            own = re.sub(sense, blank, own, flags=re.I)
        use = re.search(r"(?<![\w.+-])(?:" + word + r")(?![\w]|[.=/-]\w)", own, flags=re.I)
        links = linked(text, anchor(term))
        if use and not (links and links[0][0] < use.start()):
            yield term, use.start(), use.end()


def main():
    entries = re.findall(r'^\| <a id="([^"]*)"></a>(.*?) \|', open(sys.argv[1]).read(), flags=re.M)
    bad = [f"{t}: not in the list of terms, or its anchor is not '{anchor(t)}'" for a, t in entries if t not in TERMS or a != anchor(t)]
    bad += [f"{t}: not in the glossary" for t in TERMS if t not in dict((t, a) for a, t in entries)]
    for page in sys.argv[2:]:
        text = open(page).read()
        bad += [f"{os.path.basename(page)}: {t}: {text[max(0, b - 50):e + 30]!r}" for t, b, e in unlinked(text)]
        bad += [f"{os.path.basename(page)}: no entry '{a}'" for a in re.findall(r"glossary\.md#([^)]*)\)", text) if a not in dict(entries)]
    print("\n".join(bad), end="\n" if bad else "")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
