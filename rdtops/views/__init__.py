"""How things look: `shown(thing)` for people, `rows(thing)` for --json. Nothing here prints.

One module a noun; each is imported here, which is what makes its things known.
"""

from rdtops.views import (
           checkpoints,
           delivery,
           evaluations,
           gpus,
           hosts,
           inquiry,
           jobs,
           journal,
           plugins,
           preflight,
           proofs,
           results,
           runs,
           why,
)
from rdtops.views.forms import rows, shown
from rdtops.views.words import clock, duration, size

__all__ = ["checkpoints", "clock", "delivery", "duration", "evaluations", "gpus", "hosts", "inquiry", "jobs", "journal",
           "plugins", "preflight", "proofs", "results", "rows", "runs", "shown", "size", "why"]
