"""Messages: what the lines of a log are. A traceback is one message: its last lines, which name the exception.

Formats: Python's tracebacks, logging and warnings, torchrun's table of failures, glog (torch, TensorFlow), NCCL, W&B,
faulthandler, the C++ runtime, shells, Slurm.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_LINES = 16  # of one message
SURVIVED = 2  # lines that the trainer logged afterwards; a rank that has failed holds the others back within one step
FRAME_LINES = 8  # between the place of a call and its source line, where several ranks write


class Kind(enum.Enum):
    """What a message is, the most telling first."""

    EXCEPTION = "the exception of a traceback"
    EXIT = "a program on the end of another: launcher, shell, scheduler, or its own runtime as it aborts"
    ERROR = "a line of level ERROR or FATAL, or an exception that ended no process of the training"
    PLAIN = "a line without a level"
    WARNING = "a line of level WARNING"
    INFO = "a line of level INFO or DEBUG, or a progress bar"


@dataclass(frozen=True)
class Line:
    """One line of a file, or of a program's output."""

    file: str
    number: int  # 0 where lines have none
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.text}" if self.number else f"{self.file}: {self.text}"


@dataclass(frozen=True)
class Message:
    kind: Kind
    lines: tuple[Line, ...]
    type: str = ""  # of an exception, without its module
    exit_code: int | None = None  # of an EXIT; -9 for signal 9
    rank: int | None = None
    is_root: bool = False  # the failure that the launcher observed first
    is_survived: bool = False  # the training went on after it
    cause: Message | None = None  # the exception that was raised before it, in the same traceback

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True)
class _Entry:
    """A line without its rank's prefix."""

    line: Line
    text: str
    rank: int | None


RANK = re.compile(r"^\[(?:default|rank)(\d+)\]: ?")
HEADER = re.compile(r"^ ?(?:Original )?Traceback \(most recent call last\):")
FRAME = re.compile(r'^  File "')
OUTERMOST = re.compile(r", in (?:<module>|_run_module_as_main)$")  # of an exception that nothing caught
STACK_FRAME = re.compile(r'^  File ".*", line (?:\d+|\?\?\?) in ')  # of faulthandler
NATIVE_FRAME = re.compile(r"^(?:frame #\d+: |Exception raised from |  what\(\):\s*$|[# ]*\d+\s+0x[0-9a-f]{6,}|"
                          r"(?:Current thread|Thread) 0x|Extension modules: )")
EXCEPTION = re.compile(r"^((?:\w+\.)*[A-Za-z_]\w*)(?:: |:?$)")
ERROR_NAME = re.compile(r"(?:Error|Exception|Failed|Failure|Exit|Interrupt|Timeout|Full|Empty|Expired|Iteration|Group)$")
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# the traceback that follows ended no process of the training: a callback, a thread, a child, the handler of a log
CONTAINED = re.compile(r"^(?:Exception ignored in|Exception in thread|--- Logging error ---|Process \S+:$|"
                       r"Task exception was never|Error in atexit|Exception in callback)")
LAUNCHER = re.compile(r"ChildFailedError|SignalException|CalledProcessError: Command '\[.*'-m', ")

LEVEL_WORDS = (  # each with one group, the level
    re.compile(r" NCCL (INFO|WARN|TRACE)\b|^NCCL (INFO|WARN)\b"),
    re.compile(r"^\[?([IWEF])\d{4}[ \]]"),
    re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ([IWEF]) "),
    re.compile(r"^\S+:\d+: \w*(Warning): "),
    re.compile(r"^(?:([Ww]arning|WARNING)\b|(wandb): (?!WARNING|ERROR))"),
    re.compile(r"^(?:[^A-Z\"']|[A-Z](?![A-Z]+\b)|[A-Z]+_[A-Z_]*){0,90}?\b(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\b"))
LEVELS = {"INFO": Kind.INFO, "TRACE": Kind.INFO, "DEBUG": Kind.INFO, "I": Kind.INFO, "wandb": Kind.INFO,
          "ERROR": Kind.ERROR, "E": Kind.ERROR, "F": Kind.ERROR, "CRITICAL": Kind.ERROR, "FATAL": Kind.ERROR}
PROGRESS_BAR = re.compile(r"\d+%\|.*\| *\d+\S*/\S+ \[|^\d+(?:it|B|MB)? \[\d\d:\d\d")
TRAINER = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (?!supervisor: )")
SUPERVISOR = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  supervisor: ")

SIGNALS = {"Illegal instruction": 4, "Aborted": 6, "Bus error": 7, "Floating point exception": 8,
           "Floating-point exception": 8, "Killed": 9, "Segmentation fault": 11, "Terminated": 15}
_SIGNAL = "|".join(SIGNALS)
EXITS = (  # each with one group: an exit code, or a word of SIGNALS
    re.compile(r"^\s+exitcode\s*: (-?\d+)\b"),
    re.compile(r"\bfailed \(exitcode: (-?\d+)\)"),
    re.compile(r"^\s+traceback ?: Signal (\d+) \(SIG\w+\) received|^\s*traceback : Signal (\d+) "),
    re.compile(r"CalledProcessError: Command '\[.*'-m', .*(?:died with <Signals\.\w+: (\d+)>|exit status (-?\d+))"),
    re.compile(r"SignalException: Process \d+ got signal: (\d+)"),
    re.compile(rf"^Fatal Python error: ({_SIGNAL})"),
    re.compile(rf"^(?:\S*: line \d+: *\d+ +|\S+: \d+: +|srun: error: \S+: tasks? [\d,-]+: )?({_SIGNAL})"
               r"(?: \(core dumped\))?(?:  .*)?$"))
ABORTS = re.compile(r"^(?:terminate called |double free or corruption|free\(\): |malloc\(\): |munmap_chunk\(\)|"
                    r"corrupted |malloc_consolidate|\*\*\* stack smashing|Fatal glibc error|python\S*: .*Assertion .* failed)")
TABLE = re.compile(r"^(?:[-=]{20,}$|\[\d+\]:$|Failures:$|Root Cause \(|  (?:time|host|rank|error_file|traceback) *: )")
SCHEDULER = re.compile(r"^(?:slurmstepd: error: |srun: (?:error|Job step)|=>> PBS: job killed)")
ROOT = "Root Cause (first observed failure)"


def parse(log: Sequence[Line]) -> tuple[Message, ...]:
    """Return the messages of a log, in its order. Lines of source and of native stacks are none."""
    return tuple(_Parser(log).messages())


class _Parser:
    """One pass over a log. Ranks may write at the same time: their prefix, if any, keeps their tracebacks apart."""

    def __init__(self, log: Sequence[Line]) -> None:
        self.entries = [_entry(line) for line in log]
        trained = [place for place, entry in enumerate(self.entries) if TRAINER.match(entry.text)]
        self.last_survived = trained[-SURVIVED] if len(trained) >= SURVIVED else -1
        self.place = 0
        self.frames: dict[int | None, int] = {}  # rank -> where its last frame is
        self.open: dict[int | None, bool] = {}  # rank -> whether its traceback waits for the exception; True: contained
        self.header: dict[int | None, tuple[bool, bool]] = {}  # rank -> of the traceback that begins: contained, quoted
        self.has_spoken = False
        self.chain: dict[int | None, Message] = {}  # rank -> an exception to which the next one is chained
        self.rooted, self.table_rank = False, None  # of torchrun's table

    def messages(self) -> Iterable[Message]:
        last: dict[int | None, Message] = {}  # rank -> its last exception
        while self.place < len(self.entries):
            entry = self.entries[self.place]
            if entry.text.startswith((*CHAINED, "Original Traceback")) and entry.rank in last:
                self.chain[entry.rank] = last[entry.rank]
            message = self._next(entry)
            if message and message.type:
                last[entry.rank] = message
            if message:
                self.has_spoken = True
                yield message
            self.place += 1

    def _next(self, entry: _Entry) -> Message | None:
        """Return the message that begins here; None for a line that is none. Leave `place` at its last line."""
        text, rank = entry.text, entry.rank
        if HEADER.match(text):
            before = self.entries[self.place - 1].text if self.place else ""
            # a loader's worker quotes its traceback in one of ours
            self.header[rank] = bool(CONTAINED.match(before)), text.startswith("Original")
        if FRAME.match(text):
            self._open(entry)
            self.frames[rank] = self.place
        if self._is_source(entry):
            return None
        found = self._exit(entry) or self._exception(entry)
        return found or (None if TABLE.match(text) else self._other(entry))

    def _open(self, entry: _Entry) -> None:
        """Note that a traceback waits for its exception, and whether something caught that."""
        if STACK_FRAME.match(entry.text):
            return
        is_contained, is_quoted = self.header.pop(entry.rank, (self.has_spoken, True))  # its beginning may be cut off
        if entry.rank not in self.open or not is_quoted:
            self.open[entry.rank] = is_contained or not (is_quoted or OUTERMOST.search(entry.text))

    def _is_source(self, entry: _Entry) -> bool:
        text = entry.text
        is_quoted = text.startswith("    ") and self.place - self.frames.get(entry.rank, -2 * FRAME_LINES) <= FRAME_LINES
        return (not text.strip() or is_quoted or text.startswith(CHAINED)
                or any(pattern.match(text) for pattern in (HEADER, FRAME, NATIVE_FRAME)))

    def _exception(self, entry: _Entry) -> Message | None:
        found = EXCEPTION.match(entry.text)
        is_open = entry.rank in self.open and self.place - self.frames[entry.rank] <= FRAME_LINES
        if not found or not (is_open or ERROR_NAME.search(found[1])) or _level(entry.text):
            return None
        contained = self.open.pop(entry.rank, True) or not is_open  # without a traceback it is what somebody printed
        cause = self.chain.pop(entry.rank, None)
        kind = Kind.INFO if LAUNCHER.search(entry.text) else Kind.ERROR if contained else Kind.EXCEPTION
        return self._made(kind, self._block(entry),
                          type=found[1].rpartition(".")[2], rank=entry.rank, cause=cause)

    def _exit(self, entry: _Entry) -> Message | None:
        text = entry.text
        if ROOT in text:
            self.rooted = True
        if found := re.match(r"^\s+rank\s*: (\d+) \(local_rank", text):
            self.table_rank = int(found[1])
        if ABORTS.match(text):
            return self._made(Kind.EXIT, self._block(entry), exit_code=-6, rank=entry.rank)
        codes = [group for pattern in EXITS if (found := pattern.search(text)) for group in found.groups() if group]
        if codes:
            is_table = "exitcode" in text or "traceback" in text
            self.open.pop(entry.rank, None)
            return self._made(Kind.EXIT, (entry.line,), exit_code=_code(codes[0], "exitcode" in text or "status" in text),
                              rank=self.table_rank if is_table else entry.rank,
                              is_root=(self.rooted and is_table) or "failed (exitcode" in text)
        if SCHEDULER.match(text):
            return self._made(Kind.EXIT, (entry.line,), rank=entry.rank)
        return None

    def _other(self, entry: _Entry) -> Message:
        kind = _level(entry.text) or Kind.PLAIN
        after = self.entries[self.place + 1].text if self.place + 1 < len(self.entries) else ""
        if kind is Kind.WARNING and re.match(r"^  \S", after) and not FRAME.match(after):
            self.place += 1  # warnings.warn shows the source line
        return self._made(kind, (entry.line,), rank=entry.rank)

    def _block(self, entry: _Entry) -> tuple[Line, ...]:
        """Return the lines of a message that has several, up to an empty line or the next message."""
        lines = [entry.line]
        for following in self.entries[self.place + 1:self.place + MOST_LINES]:
            text = following.text
            if (following.rank != entry.rank or not text.strip() or HEADER.match(text) or FRAME.match(text)
                    or TABLE.match(text) or _level(text) or any(pattern.search(text) for pattern in EXITS) or SCHEDULER.match(text)
                    or ABORTS.match(text)):
                break
            self.place += 1
            if not NATIVE_FRAME.match(text):
                lines.append(following.line)
        return tuple(lines)

    def _made(self, kind: Kind, lines: tuple[Line, ...], **more: object) -> Message:
        return Message(kind, lines, is_survived=self.place < self.last_survived, **more)  # type: ignore[arg-type]


def _entry(line: Line) -> _Entry:
    found = RANK.match(line.text)
    return _Entry(line, line.text[found.end():] if found else line.text, int(found[1]) if found else None)


def _level(text: str) -> Kind | None:
    """Return the kind of a line that carries its own level."""
    if TRAINER.match(text) or SUPERVISOR.match(text) or PROGRESS_BAR.search(text):
        return Kind.INFO
    for pattern in LEVEL_WORDS:
        if found := pattern.search(text):
            return LEVELS.get(next(filter(None, found.groups())), Kind.WARNING)
    return None


def _code(word: str, is_code: bool) -> int:
    """Return an exit code, negative for a signal, of a code, a signal's number or its word."""
    if word in SIGNALS:
        return -SIGNALS[word]
    number = int(word)
    if not is_code:
        return -number
    return 128 - number if number > 128 else number
