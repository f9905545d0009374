#!/usr/bin/env python3
"""Runs the unit tests with each change that `cargo mutants --list --json` names, and builds the program once for all of them.

    mutants.py TREE LIST OUTPUT SECONDS FILTER [REGEX]

All changes of functions are woven into the sources in TREE: the body of a function becomes a match, an arm for each change, and
KES_MUTANT chooses the change by its place in the LIST, from 1. So a change costs a run of the tests that FILTER names, not a build.
With REGEX only changes whose names it matches are tried (cargo-mutants ignores its own --re for fields of structs).
OUTPUT gets the names of the changes, a line each: `caught.txt`, `missed.txt`, `timeout.txt` (longer than SECONDS, and than 20
runs without a change), `unviable.txt` (the compiler refuses it) and `single.txt`, those that have to be built one by one:

- outside of the bodies of functions;
- in a `const fn`: the compiler may run it, and then a choice at run time would change nothing. No other function can be
  evaluated by the compiler, so that a change is never missed for this reason;
- in a function that returns `impl Trait`, since the arms would differ in type, and in one whose body is no arm of a match.

Fails if the tests fail while no change is chosen, or pass while all woven functions panic.
"""

import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

NONE, ALL_PANIC = 0, 2**32 - 1
CHOICE = """
pub fn mutant() -> u32 {
    static CHOSEN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| std::env::var("KES_MUTANT").map_or(0, |chosen| chosen.parse().unwrap()))
}
"""
BUILD = "cargo test --quiet --locked --lib --no-run --message-format=json".split()
# A change may also allocate without end.
MOST_MEMORY = 4 << 30


def position(text, place):
    """The index of a line and column, which count from 1."""
    at = 0
    for _ in range(place["line"] - 1):
        at = text.index("\n", at) + 1
    return at + place["column"] - 1


def body_start(text, start):
    """Behind the brace that opens the body of the function: the first one outside of brackets."""
    depth = 0
    for at in range(re.compile(r"\bfn\s+\w").search(text, start).end(), len(text)):
        depth += (text[at] in "([") - (text[at] in ")]")
        if text[at] == "{" and depth == 0:
            return at + 1
    raise ValueError("a function without a body")


class Function:
    """A function, and its body with each of the changes to it and to functions within it, by number."""

    def __init__(self, text, span):
        start = position(text, span["start"])
        self.start, self.end = body_start(text, start), position(text, span["end"]) - 1
        self.body = text[self.start : self.end]
        self.can_weave = not re.search(r"\bconst\s+fn\b|->\s*impl\b", text[start : self.start])
        self.changes = {}

    def add(self, number, text, change):
        start, end = (position(text, change["span"][edge]) for edge in ("start", "end"))
        # Not in the length of an array in the signature.
        if start >= self.start:
            self.changes[number] = f"{text[self.start:start]} {change['replacement']} {text[end:self.end]}"


def changed_functions(text, changes):
    """In their order. `changes` are those of one file, with their numbers."""
    inside = [(number, change) for number, change in changes if change["function"]]
    found = []
    for number, change in sorted(inside, key=lambda it: position(text, it[1]["function"]["span"]["start"])):
        function = Function(text, change["function"]["span"])
        if not found or function.start > found[-1].end:
            found.append(function)
        found[-1].add(number, text, change)
    return found


def weave(text, functions, refused):
    """The file with all changes but those `refused`, and the number or function that a line belongs to."""
    woven, owners, at = "", {}, 0

    def arm(pattern, body, owner):
        nonlocal woven
        first = woven.count("\n") + 1
        woven += f"{pattern} => {{ {body} }}\n"
        owners.update((line, owner) for line in range(first, woven.count("\n") + 1))

    for function in filter(lambda it: it.can_weave, functions):
        woven += f"{text[at : function.start]} match crate::mutant() {{ {ALL_PANIC} => panic!(),\n"
        for number, body in function.changes.items():
            if number not in refused:
                arm(number, body, number)
        # A fault here is not the fault of one change.
        arm("_", function.body, function)
        woven += "}"
        at = function.end
    return woven + text[at:], owners


def places(span):
    """Where it is, and where the macros were called that it comes from."""
    while span:
        yield span["file_name"], span["line_start"]
        span = (span["expansion"] or {}).get("span")


def build(tree, files):
    """The program of the tests, and the numbers of the changes that the compiler refuses."""
    texts = {file: (tree / file).read_text() for file in files}
    refused = set()
    while True:
        owners = {}
        for file, parts in files.items():
            woven, lines = weave(texts[file], parts, refused)
            (tree / file).write_text(woven)
            owners.update(((file, line), owner) for line, owner in lines.items())
        done = subprocess.run(BUILD, cwd=tree, capture_output=True, text=True)
        messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode == 0:
            return next(it["executable"] for it in messages if it.get("executable")), refused
        errors = [it["message"] for it in messages if it["reason"] == "compiler-message" and it["message"]["level"] == "error"]
        spans = [span for error in errors for span in error["spans"] if span["is_primary"]]
        guilty = {owners[place] for span in spans for place in places(span) if place in owners}
        if not guilty:
            sys.stderr.write("".join(error["rendered"] for error in errors) or done.stderr)
            sys.exit(2)
        for owner in guilty:
            if isinstance(owner, Function):
                owner.can_weave = False
            else:
                refused.add(owner)


def attempt(program, tree, chosen, seconds, words):
    """How it went, and the output of the tests."""
    child = subprocess.Popen(
        [program, "--quiet", words],
        cwd=tree,
        env=os.environ | {"KES_MUTANT": str(chosen), "CARGO_MANIFEST_DIR": str(tree)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY)),
    )
    try:
        output = child.communicate(timeout=seconds)[0]
        return "missed" if child.returncode == 0 else "caught", output
    except subprocess.TimeoutExpired:
        return "timeout", ""
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def main():
    tree, listing, output = map(pathlib.Path, sys.argv[1:4])
    seconds, words = float(sys.argv[4]), sys.argv[5]
    wanted = re.compile("".join(sys.argv[6:]))
    listed = enumerate(json.loads(listing.read_text() or "[]"), 1)
    changes = [(number, change) for number, change in listed if wanted.search(change["name"])]
    files = {}
    for file in {change["file"] for _, change in changes}:
        here = [(number, change) for number, change in changes if change["file"] == file]
        files[file] = changed_functions((tree / file).read_text(), here)
    with (tree / "src/lib.rs").open("a") as library:
        library.write(CHOICE)
    program, refused = build(tree, files)
    woven = {number for parts in files.values() for it in parts if it.can_weave for number in it.changes}

    begin = time.monotonic()
    result, said = attempt(program, tree, NONE, 20 * seconds, words)
    # On a busy machine a run may take long.
    seconds = max(seconds, 20 * (time.monotonic() - begin))
    if result != "missed":
        sys.exit(f"the tests fail without a change: {result}\n{said}")
    if woven - refused and attempt(program, tree, ALL_PANIC, seconds, words)[0] == "missed":
        sys.exit("the tests pass though all woven functions panic")

    output.mkdir(parents=True, exist_ok=True)
    for number, change in changes:
        if number not in woven:
            result = "single"
        elif number in refused:
            result = "unviable"
        else:
            result = attempt(program, tree, number, seconds, words)[0]
        with (output / f"{result}.txt").open("a") as names:
            print(change["name"], file=names)


main()
