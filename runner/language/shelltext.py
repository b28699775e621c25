"""Where a shell would look at a `${` in a text, and where it would not.

Knows quotes, escapes, comments, here-documents and nested substitutions of POSIX shells and
bash, and nothing of values. One scan from left to right with its own stack: no nesting and no
unfinished text can crash it, and it never reads a character twice except to find the end of a
here-document. Where shells differ it takes the reading that leaves more text alone. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache

MAX_DEPTH = 200

_HERE = re.compile(r"<<(-?)[ \t]*")
_WORD_END = frozenset(" \t\n;&|<>()")
_COMMAND_WORDS = frozenset({"then", "do", "else", "elif", "if", "while", "until", "time", "!", "{"})
_WORD = re.compile(r"[A-Za-z!{]+(?=[\s;&|)`]|$)")
_PLAIN = re.compile(r"[A-Za-z0-9_./,:=+@%^~-]+")  # means nothing in any mode but as a word's start
_BLANKS = re.compile(r"[ \t]+")
_LINE_END = re.compile(r"\n")
_LINE_OR_BACKTICK = re.compile(r"[\n`]")


class _Mode(Enum):
    COMMAND = auto()  # the text itself, and $( … )
    BACKTICK = auto()  # ` … `: a command as well
    DOUBLE = auto()  # " … "
    BRACE = auto()  # ${ … }
    ARITHMETIC = auto()  # $(( … )) and (( … ))
    HERE = auto()  # the body of <<EOF


_COMMANDS = frozenset({_Mode.COMMAND, _Mode.BACKTICK})


@dataclass(slots=True)
class _Frame:
    mode: _Mode
    end: int  # a here-document's body ends here, whatever is open in it
    resume: int = 0  # where reading goes on behind a here-document
    parens: int = 0
    cases: int = 0  # `case … esac` that are open: their `)` closes nothing
    in_double: bool = False
    pending: list[tuple[str, bool, bool]] = field(default_factory=list)  # word, tabs, quoted
    word_start: bool = True
    command_start: bool = True


def active_braces(text: str) -> tuple[int, ...]:
    """The index of each `${` that the shell would act on, in order.

    None of them stands in single quotes, in a comment, behind a backslash or in the body of a
    here-document whose word is quoted. A text nested deeper than 200 has only those before.
    """
    return _scanned(text) if "${" in text else ()


@lru_cache(maxsize=128)
def _scanned(text: str) -> tuple[int, ...]:
    scanner = _Scanner(text)
    scanner.run()
    return tuple(scanner.found)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.found: list[int] = []
        self._at = 0
        self._stack = [_Frame(_Mode.COMMAND, len(text))]

    def run(self) -> None:
        while self._stack and len(self._stack) <= MAX_DEPTH:
            frame = self._stack[-1]
            if self._at >= frame.end:
                self._leave(frame)
                continue
            char = self.text[self._at]
            if frame.mode in _COMMANDS:
                self._in_command(frame, char)
            elif frame.mode is _Mode.DOUBLE:
                self._in_double(char)
            elif frame.mode is _Mode.HERE:
                self._common(frame, char)
            else:
                self._in_parens(frame, char)

    def _leave(self, frame: _Frame) -> None:
        """Something ended because what it stands in did."""
        self._stack.pop()
        if frame.mode is _Mode.HERE:
            self._at = frame.resume

    def _enter(self, mode: _Mode, *, skip: int, in_double: bool = False) -> None:
        self._stack.append(_Frame(mode, self._stack[-1].end, in_double=in_double))
        self._at += skip

    def _close(self, skip: int = 1) -> None:
        self._stack.pop()
        self._at += skip

    def _common(self, frame: _Frame, char: str) -> bool:
        """What means the same in every mode: escapes and substitutions. Takes one character at
        least; True where it was one of these."""
        text, at = self.text, self._at
        in_double = frame.mode in (_Mode.DOUBLE, _Mode.HERE) or frame.in_double
        if char == "\\":
            self._at += 2
        elif char == "`":
            self._enter(_Mode.BACKTICK, skip=1)
        elif text.startswith("${", at):
            self.found.append(at)
            self._enter(_Mode.BRACE, skip=2, in_double=in_double)
        elif text.startswith("$((", at):
            self._enter(_Mode.ARITHMETIC, skip=3, in_double=in_double)
        elif text.startswith("$(", at):
            self._enter(_Mode.COMMAND, skip=2)
        else:
            plain = _PLAIN.match(text, at, frame.end)
            self._at = plain.end() if plain else at + 1
            return False
        return True

    def _in_double(self, char: str) -> None:
        if char == '"':
            self._close()
        else:
            self._common(self._stack[-1], char)

    def _in_parens(self, frame: _Frame, char: str) -> None:
        """Inside `${ … }` or arithmetic."""
        if frame.mode is _Mode.BRACE and char == "}":
            self._close()
        elif frame.mode is _Mode.ARITHMETIC and char == "(":
            frame.parens += 1
            self._at += 1
        elif frame.mode is _Mode.ARITHMETIC and char == ")" and frame.parens:
            frame.parens -= 1
            self._at += 1
        elif frame.mode is _Mode.ARITHMETIC and char == ")":
            self._close(2 if self.text.startswith("))", self._at) else 1)
        elif char == '"':
            self._enter(_Mode.DOUBLE, skip=1)
        elif char == "'" and not frame.in_double:
            self._skip_single(frame)
        else:
            self._common(frame, char)

    def _in_command(self, frame: _Frame, char: str) -> None:
        if self._ends(frame, char):
            self._close()
        elif char == "\n":
            self._newline(frame)
        elif char in " \t":
            blanks = _BLANKS.match(self.text, self._at, frame.end)
            self._at = blanks.end() if blanks else self._at + 1
            frame.word_start = True
        elif char == "#" and frame.word_start:
            self._skip_comment(frame)
        elif char in ";&|()<>":
            self._operator(frame, char)
        else:
            self._word(frame, char)

    def _ends(self, frame: _Frame, char: str) -> bool:
        if frame.mode is _Mode.BACKTICK:
            return char == "`"
        closes = char == ")" and not frame.parens and not frame.cases
        return closes and len(self._stack) > 1

    def _word(self, frame: _Frame, char: str) -> None:
        """One character of a word, or something quoted in it."""
        begins, frame.word_start = frame.word_start, False
        if begins:
            self._note_keyword(frame)
        if char == "'":
            self._skip_single(frame)
        elif char == '"':
            self._enter(_Mode.DOUBLE, skip=1)
        elif self.text.startswith("$'", self._at):
            self._skip_ansi(frame)
        elif char == "\\" and self.text.startswith("\\\n", self._at):
            self._at += 2
            frame.word_start = begins  # a continued line is no word
        else:
            self._common(frame, char)

    def _note_keyword(self, frame: _Frame) -> None:
        starts, frame.command_start = frame.command_start, False
        found = _WORD.match(self.text, self._at) if starts else None
        if found is None:
            return
        if found[0] == "case":
            frame.cases += 1
        elif found[0] == "esac":
            frame.cases = max(0, frame.cases - 1)
        frame.command_start = found[0] in _COMMAND_WORDS

    def _operator(self, frame: _Frame, char: str) -> None:
        at, starts = self._at, frame.command_start
        frame.word_start = True
        frame.command_start = char not in "<>"
        if char == "<" and self.text.startswith("<<<", at):
            self._at += 3
        elif char == "<" and self.text.startswith("<<", at):
            self._here(frame)
        elif char == "(" and starts and self.text.startswith("((", at):
            self._enter(_Mode.ARITHMETIC, skip=2)
        else:
            if char == "(":
                frame.parens += 1
            elif char == ")" and frame.parens:
                frame.parens -= 1
            self._at += 1

    def _here(self, frame: _Frame) -> None:
        """`<<WORD`: the body begins after the line's end."""
        found = _HERE.match(self.text, self._at, frame.end)
        if found is None:  # pragma: no cover  the caller has seen "<<"
            self._at += 2
            return
        self._at = found.end()
        word, quoted = self._here_word(frame)
        if word or quoted:
            frame.pending.append((word, found[1] == "-", quoted))

    def _here_word(self, frame: _Frame) -> tuple[str, bool]:
        letters: list[str] = []
        quoted = False
        while self._at < frame.end and self.text[self._at] not in _WORD_END:
            char = self.text[self._at]
            if char in "'\"":
                close = self.text.find(char, self._at + 1, frame.end)
                close = frame.end if close < 0 else close
                letters.append(self.text[self._at + 1 : close])
                quoted, self._at = True, close + 1
            elif char == "\\":
                letters.append(self.text[self._at + 1 : self._at + 2])
                quoted, self._at = True, self._at + 2
            else:
                letters.append(char)
                self._at += 1
        return "".join(letters), quoted

    def _newline(self, frame: _Frame) -> None:
        self._at += 1
        frame.word_start = frame.command_start = True
        if frame.pending:
            word, tabs, quoted = frame.pending.pop(0)
            self._body(frame, word, tabs=tabs, quoted=quoted)

    def _body(self, frame: _Frame, word: str, *, tabs: bool, quoted: bool) -> None:
        """Skip a here-document's body, or go through it where the shell would look into it."""
        start = line = self._at
        resume = frame.end  # unfinished: the body is all that is left
        while line < frame.end:
            stop = self.text.find("\n", line, frame.end)
            stop = frame.end if stop < 0 else stop
            content = self.text[line:stop]
            if (content.lstrip("\t") if tabs else content) == word:
                resume = stop  # at the newline, which starts the next body if there is one
                break
            line = stop + 1
        if quoted:
            self._at = resume
        else:
            self._stack.append(_Frame(_Mode.HERE, min(line, frame.end), resume=resume))
            self._at = start

    def _skip_single(self, frame: _Frame) -> None:
        close = self.text.find("'", self._at + 1, frame.end)
        self._at = frame.end if close < 0 else close + 1

    def _skip_ansi(self, frame: _Frame) -> None:
        """`$'…'`, in which a backslash escapes."""
        self._at += 2
        while self._at < frame.end and self.text[self._at] != "'":
            self._at += 2 if self.text[self._at] == "\\" else 1
        self._at += 1

    def _skip_comment(self, frame: _Frame) -> None:
        end = _LINE_OR_BACKTICK if frame.mode is _Mode.BACKTICK else _LINE_END
        found = end.search(self.text, self._at, frame.end)
        self._at = found.start() if found else frame.end
