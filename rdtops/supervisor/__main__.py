"""The supervisor's command: `python -m rdtops.supervisor CONFIG [restarts=5 backoff_s=10 ...] -- PROGRAM ...`

Exit code: that of the last attempt, which it also writes to the file `exit` of the run folder.
"""

from __future__ import annotations

import logging
import sys

from rdtops.contract.recovery import Recovery
from rdtops.contract.run import RunSpec
from rdtops.errors import RdtopsError, UsageError
from rdtops.supervisor.supervision import Supervision


def main(arguments: list[str]) -> int:
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s  supervisor: %(message)s",
                        datefmt="%Y-%m-%d %H:%M:%S")
    try:
        if "--" not in arguments[1:]:
            raise UsageError("usage: python -m rdtops.supervisor CONFIG [key=value ...] -- PROGRAM ...")
        split = arguments.index("--")
        config, *words = arguments[:split]
        return Supervision(RunSpec.load(config), arguments[split + 1:], Recovery.from_words(words)).run()
    except (RdtopsError, OSError) as error:
        sys.stderr.write(f"{error}\n" + (f"next: {e}\n" if (e := getattr(error, "remedy", "")) else ""))
        return getattr(error, "exit_code", 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
