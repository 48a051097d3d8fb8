"""Test kit for authors of plugins: a scripted connection, the lab as pytest fixtures, and the conformance kit.

    from rdtops.testing import BROKEN, ScriptedConnection, load, make_host, make_spec, said
    pytest_plugins = ["rdtops.testing.fixtures"]        # rdtops_lab, lab_host, lab_connection, lab_spec
    python -m rdtops.testing.conform my_plugin
"""

from rdtops.testing.scripted import BROKEN, ScriptedConnection, load, make_host, make_spec, said

__all__ = ["BROKEN", "ScriptedConnection", "load", "make_host", "make_spec", "said"]
