# SPDX-License-Identifier: Apache-2.0
"""The files the loads work on: a repository of 20,000 files, and a C project to compile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from demo.account import Account

# As in loads.c: FOLDERS and FILES_PER_FOLDER.
_FOLDERS = 200
_FILES_PER_FOLDER = 100
_UNITS = 32
_UNIT = """\
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct row {{ char name[32]; double value; }};

static int by_value(const void *a, const void *b)
{{
\tdouble l = ((const struct row *)a)->value, r = ((const struct row *)b)->value;
\treturn (l > r) - (l < r);
}}

double unit_{number}(struct row *rows, size_t count)
{{
\tdouble sum = 0;
\tqsort(rows, count, sizeof(*rows), by_value);
\tfor (size_t i = 0; i < count; i++)
\t\tsum += sqrt(fabs(rows[i].value)) * strlen(rows[i].name);
\treturn sum + {number};
}}
"""
_MAKEFILE = """\
OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))
all: $(OBJECTS)
%.o: %.c
\tcc -O2 -c -o $@ $<
"""


@dataclass(frozen=True, slots=True)
class Corpus:
    """`workspace` is a git repository; `tree` and `project` are in it."""

    workspace: Path

    @property
    def tree(self) -> Path:
        return self.workspace / "tree"

    @property
    def project(self) -> Path:
        return self.workspace / "project"

    @property
    def one_file(self) -> Path:
        return self.tree / "00" / "000.txt"


def create(account: Account) -> Corpus:
    """Make the corpus in the home of `account`."""
    corpus = Corpus(account.home / "work")
    corpus.project.mkdir(parents=True)
    for folder in range(_FOLDERS):
        place = corpus.tree / f"{folder:02x}"
        place.mkdir(parents=True)
        for number in range(_FILES_PER_FOLDER):
            (place / f"{number:03d}.txt").write_text(f"file {number} of folder {folder}\n" * 8)
    for number in range(_UNITS):
        (corpus.project / f"unit_{number}.c").write_text(_UNIT.format(number=number))
    (corpus.project / "Makefile").write_text(_MAKEFILE)
    (corpus.workspace / ".gitignore").write_text("*.o\n")
    account.give(corpus.workspace)
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@demo.invalid"]
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "corpus"]):
        account.run(["git", *identity, *command], cwd=corpus.workspace)
    return corpus
