"""Messages: what the lines of a log are. A traceback is one message: its last lines, which name the exception.

Known are Python's tracebacks, logging and warnings, torchrun's table of failures, glog (torch, TensorFlow), NCCL, W&B,
tqdm, faulthandler, the C++ runtime, shells and Slurm.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    cause: Message | None = None  # of an exception: the one to which it is chained

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


# lines of tracebacks and of native stacks
RANK = re.compile(r"^\[(?:default|rank)(\d+)\]: ?")
HEADER = re.compile(r"^ ?(?:Original )?Traceback \(most recent call last\):")
QUOTED = "Original Traceback"  # of a loader's worker, in one of ours
CHAINED = ("During handling of the above exception", "The above exception was the direct cause", QUOTED)
FRAME = re.compile(r'^  File ".*", line \d+, in |^  File ".*", line \d+$')  # the second one of a SyntaxError
OUTERMOST = re.compile(r", in (?:<module>|_run_module_as_main)$")  # where nothing caught the exception
NO_MESSAGE = re.compile(r'^\s*$|^  File "|^ ?(?:Original )?Traceback \(most|^During handling of the above|'
                        r"^The above exception was the|^frame #\d+: |^Exception raised from |^<omitting python frames>|"
                        r"^(?:Current thread|Thread) 0x|^  <no Python frame>|^Extension modules: ")
EXCEPTION = re.compile(r"^((?:\w+\.)*[A-Za-z_]\w*)(?:: |:?$)")
ERROR_NAME = re.compile(r"(?:Error|Exception|Failed|Failure|Exit|Interrupt|Timeout|Full|Empty|Iteration|Group)$")
# before a traceback that ended no process of the training: of a callback, a thread, a child, the handler of a log
CONTAINED = re.compile(r"^(?:Exception ignored in|Exception in thread|--- Logging error ---|Process \S+:$|"
                       r"Task exception was never|Error in atexit|Exception in callback)")
LAUNCHER = re.compile(r"ChildFailedError|SignalException|CalledProcessError: Command '\[.*'-m', ")

# lines with a level, or that are of one
TRAINER = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (?!supervisor: )")
SUPERVISOR = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  supervisor: ")
PROGRESS_BAR = re.compile(r"\d+%\|.*\| *\d+\S*/\S+ \[|^\d+(?:it|B|MB)? \[\d\d:\d\d")
LEVELS = {"INFO": Kind.INFO, "TRACE": Kind.INFO, "DEBUG": Kind.INFO, "I": Kind.INFO, "wandb": Kind.INFO,
          "ERROR": Kind.ERROR, "E": Kind.ERROR, "F": Kind.ERROR, "CRITICAL": Kind.ERROR, "FATAL": Kind.ERROR}
LEVEL_WORDS = (  # each with the level as its group: one of LEVELS, or a warning
    re.compile(r"(?:^| )NCCL (INFO|WARN|TRACE)\b"),
    re.compile(r"^\[?([IWEF])\d{4} "),
    re.compile(r"^\[([IWEF]) "),
    re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ([IWEF]) "),
    re.compile(r"^\S+:\d+: \w*(Warning): "),
    re.compile(r"^([Ww]arning|wandb(?=: (?!WARNING|ERROR)))\b"),
    re.compile(r"^[^\"']{0,90}?\b(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\b"))

# lines on the end of a process
SIGNALS = {"Illegal instruction": 4, "Aborted": 6, "Bus error": 7, "Floating point exception": 8, "Killed": 9,
           "Segmentation fault": 11, "Terminated": 15}
_WORD = rf"(?P<word>{'|'.join(SIGNALS)})"
EXITS = tuple(map(re.compile, (
    r"^\s+exitcode\s*: (?P<code>-?\d+)\b",
    r"\bfailed \(exitcode: (?P<code>-?\d+)\)",
    r"^\s*traceback\s*: Signal (?P<signal>\d+) ",
    r"CalledProcessError: Command '\[.*'-m', .*(?:<Signals\.\w+: (?P<signal>\d+)>|exit status (?P<code>-?\d+))",
    r"SignalException: Process \d+ got signal: (?P<signal>\d+)",
    rf"^Fatal Python error: {_WORD}",
    (rf"^(?:\S*: line \d+: *\d+ +|\S+: \d+: +|srun: error: \S+: tasks? [\d,-]+: )?{_WORD}"
    r"(?: \(core dumped\))?(?:  .*)?$"))))
ABORT = re.compile(r"^(?:terminate called |double free or corruption|free\(\): |malloc\(\): |munmap_chunk\(\)|"
                   r"corrupted |malloc_consolidate|\*\*\* stack smashing|Fatal glibc error|"
                   r"python\S*: .*Assertion .* failed)")
SCHEDULER = re.compile(r"^(?:slurmstepd: error: |srun: (?:error|Job step)|=>> PBS: job killed)")
ROOT = re.compile(r"^Root Cause \(first observed failure\)")
TABLE_RANK = re.compile(r"^\s+rank\s*: (\d+) \(local_rank")
TABLE = re.compile(r"^(?:[-=]{20,}$|\[\d+\]:$|Failures:$|Root Cause \(|  (?:time|host|rank|error_file|traceback) *: )")


def parse(log: Sequence[Line]) -> tuple[Message, ...]:
    """Return the messages of a log, in its order. Lines of source and of native stacks are none."""
    return tuple(_Parser(log))


@dataclass(frozen=True)
class _Entry:
    """A line without its rank's prefix."""

    line: Line
    text: str
    rank: int | None


@dataclass
class _Traceback:
    """What is known of a rank's traceback while its lines are read."""

    header: str = ""  # until its first frame
    header_contained: bool = False
    frame: int = -2 * FRAME_LINES  # the place of its last one
    is_open: bool = False  # it waits for the line with the exception
    is_contained: bool = False
    last: Message | None = None  # exception
    cause: Message | None = None  # exception to which the next one is chained


class _Parser:
    """One pass over a log. Ranks may write at the same time: their prefix, if any, keeps their tracebacks apart."""

    def __init__(self, log: Sequence[Line]) -> None:
        self.entries = [_entry(line) for line in log]
        trained = [place for place, entry in enumerate(self.entries) if TRAINER.match(entry.text)]
        self.last_survived = trained[-SURVIVED] if len(trained) >= SURVIVED else -1
        self.place = 0
        self.tracebacks: dict[int | None, _Traceback] = {}
        self.has_spoken = False
        self.in_root = False  # of torchrun's table of failures
        self.table_rank: int | None = None

    def __iter__(self) -> Iterator[Message]:
        while self.place < len(self.entries):
            entry = self.entries[self.place]
            self._follow(entry)
            if found := self._message(entry):
                self.has_spoken = True
                yield found
            self.place += 1

    def _follow(self, entry: _Entry) -> None:
        """Follow tracebacks and the launcher's table through a line."""
        text, traceback = entry.text, self.tracebacks.setdefault(entry.rank, _Traceback())
        if text.startswith(CHAINED):
            traceback.cause = traceback.last
        if HEADER.match(text):
            before = self.entries[self.place - 1].text if self.place else ""
            traceback.header, traceback.header_contained = text, bool(CONTAINED.match(before))
        if FRAME.match(text):
            self._open(traceback, text)
        self.in_root = self.in_root or bool(ROOT.match(text))
        if found := TABLE_RANK.match(text):
            self.table_rank = int(found[1])

    def _open(self, traceback: _Traceback, frame: str) -> None:
        """Note a frame; of the first one whether something caught the exception."""
        traceback.frame = self.place
        if traceback.header and not traceback.header.startswith(QUOTED):
            traceback.is_contained = traceback.header_contained or not OUTERMOST.search(frame)
        elif not traceback.is_open:  # quoted by the one before, or its beginning was cut off with that of the log
            traceback.is_contained = self.has_spoken and not traceback.header
        traceback.is_open, traceback.header = True, ""

    def _message(self, entry: _Entry) -> Message | None:
        """Return the message that begins here; None for a line that is none. Leave `place` at its last line."""
        text = entry.text
        is_source = text.startswith("    ") and self._is_near_frame(entry)
        if is_source or NO_MESSAGE.match(text):
            return None
        found = self._exit(entry) or self._exception(entry)
        return found or (None if TABLE.match(text) else self._line(entry))

    def _is_near_frame(self, entry: _Entry) -> bool:
        return self.place - self.tracebacks[entry.rank].frame <= FRAME_LINES

    def _exception(self, entry: _Entry) -> Message | None:
        found, traceback = EXCEPTION.match(entry.text), self.tracebacks[entry.rank]
        is_open = traceback.is_open and self._is_near_frame(entry)
        if not found or not (ERROR_NAME.search(found[1]) or (is_open and not _level(entry.text))):
            return None
        contained = traceback.is_contained or not is_open  # without a traceback it is what somebody printed
        kind = Kind.INFO if LAUNCHER.search(entry.text) else Kind.ERROR if contained else Kind.EXCEPTION
        traceback.last = self._made(kind, self._block(entry), type=found[1].rpartition(".")[2], rank=entry.rank,
                                    cause=traceback.cause)
        traceback.is_open, traceback.cause = False, None
        return traceback.last

    def _exit(self, entry: _Entry) -> Message | None:
        text = entry.text
        if ABORT.match(text):
            return self._made(Kind.EXIT, self._block(entry), exit_code=-SIGNALS["Aborted"], rank=entry.rank)
        if found := next(filter(None, (pattern.search(text) for pattern in EXITS)), None):
            self.tracebacks[entry.rank].is_open = False  # of the launcher
            is_row = bool(re.match(r"\s*(?:exitcode|traceback)\b", text))
            return self._made(Kind.EXIT, (entry.line,), exit_code=_exit_code(found.groupdict()),
                              rank=self.table_rank if is_row else entry.rank,
                              is_root="failed (exitcode" in text or (self.in_root and is_row))
        return self._made(Kind.EXIT, (entry.line,), rank=entry.rank) if SCHEDULER.match(text) else None

    def _line(self, entry: _Entry) -> Message:
        kind = _level(entry.text) or Kind.PLAIN
        after = self.entries[self.place + 1].text if self.place + 1 < len(self.entries) else ""
        if kind is Kind.WARNING and re.match(r'^  (?!File ")\S', after):
            self.place += 1  # warnings.warn shows the source line
        return self._made(kind, (entry.line,), rank=entry.rank)

    def _block(self, entry: _Entry) -> tuple[Line, ...]:
        """Return the lines of a message that has several, up to an empty line or the next message."""
        lines = [entry.line]
        for following in self.entries[self.place + 1:self.place + MOST_LINES]:
            text = following.text
            if following.rank != entry.rank or NO_MESSAGE.match(text) or _level(text) or any(
                    pattern.search(text) for pattern in (TABLE, ABORT, SCHEDULER, *EXITS)):
                break
            self.place += 1
            lines.append(following.line)
        return tuple(lines)

    def _made(self, kind: Kind, lines: tuple[Line, ...], **more: Any) -> Message:
        return Message(kind, lines, is_survived=self.place < self.last_survived, **more)


def _entry(line: Line) -> _Entry:
    found = RANK.match(line.text)
    return _Entry(line, line.text[found.end():] if found else line.text, int(found[1]) if found else None)


def _level(text: str) -> Kind | None:
    """Return the kind of a line that carries its own level; None without one."""
    if TRAINER.match(text) or SUPERVISOR.match(text) or PROGRESS_BAR.search(text):
        return Kind.INFO
    found = next(filter(None, (pattern.search(text) for pattern in LEVEL_WORDS)), None)
    return LEVELS.get(found[1], Kind.WARNING) if found else None


def _exit_code(said: dict[str, str | None]) -> int:
    """Return the exit code that a line names, negative for a signal; a shell's 137 is signal 9."""
    if word := said.get("word"):
        return -SIGNALS[word]
    if signal := said.get("signal"):
        return -int(signal)
    code = int(said["code"] or 0)
    return 128 - code if code > 128 else code
