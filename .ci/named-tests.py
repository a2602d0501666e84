#!/usr/bin/env python3
"""Whether every test that a document names is there: `PROGRAM` `test`, `test`. Prints each that isn't, and ends with 1 then.

    .ci/named-tests.py docs/threat-model.md
"""

import re
import sys
from pathlib import Path

CRATES = {"agent/core": "core", "agent/drivers": "drivers", "agent/store": "store", "agent/src": "agent"}
ATTRIBUTE = re.compile(r"^\s*#\[(?:\w+::)*test\b")
FUNCTION = re.compile(r"^\s*(?:pub )?(?:async )?fn (\w+)")
CODE = re.compile(r"`([^`\s]+)`")
# A sentence has so many words; an option or a field has fewer.
WORDS = 4


def tests():
    """The names of all tests, by the crate or program that they are in."""
    found = {"guest": set(re.findall(r"^def (\w+)\(box\):$", Path("tests/guest/checks.py").read_text(), re.M))}
    for file in sorted(Path("agent").rglob("*.rs")):
        path = file.as_posix()
        if path.startswith("agent/tests/"):
            program = file.relative_to("agent/tests").parts[0].removesuffix(".rs")
        else:
            program = next((name for folder, name in CRATES.items() if path.startswith(folder + "/")), None)
        is_test = False
        for line in file.read_text().splitlines():
            is_test = is_test or bool(ATTRIBUTE.match(line))
            function = FUNCTION.match(line)
            if function and is_test:
                found.setdefault(program, set()).add(function.group(1))
            is_test = is_test and not function
    return found


def main():
    known, bad, named = tests(), 0, 0
    for document in sys.argv[1:]:
        program = None
        text = Path(document).read_text()
        for match in CODE.finditer(text):
            word, line = match.group(1), text.count("\n", 0, match.start()) + 1
            if word in known:
                program = word
            elif re.fullmatch(r"\w+::", word):
                print(f"{document}:{line} names all of {word}: name the tests")
                bad += 1
            elif re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", word) and word.count("_") + 1 >= WORDS:
                named += 1
                if word not in known.get(program, ()):
                    where = ", ".join(sorted(str(name) for name, names in known.items() if word in names)) or "nowhere"
                    print(f"{document}:{line} names {word} in {program}: it is {where}")
                    bad += 1
        if named == 0:
            print(f"{document} names no test")
            bad += 1
    sys.exit(1 if bad else 0)


main()
