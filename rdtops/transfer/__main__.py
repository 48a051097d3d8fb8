"""`python -m rdtops.transfer`: the transfer on its own."""

import sys

from rdtops.transfer.transfer_command import main

sys.exit(main())
