"""Errors: every error that rdtops raises on purpose.

    RdtopsError                    exit 1
    ├── UsageError                 exit 2   the command line is wrong
    │   └── ConfigError            exit 2   hosts.toml, --set or a preset is wrong
    ├── HostError                  exit 3   a hop of the route cannot be used
    │   ├── Unreachable                     no TCP or no SSH banner
    │   ├── HostKeyError                    unknown or changed key
    │   ├── AuthenticationFailed            wrong user or key
    │   ├── LoginShellError                 the login shell does not run our command
    │   ├── SessionRefused                  no more sessions at a time (MaxSessions)
    │   └── ConnectionLost                  lost after the login; the outcome is unknown
    ├── RemoteError                exit 1   the host answered with a failure
    │   ├── CommandFailed
    │   └── CommandTimeout
    ├── TransferError              exit 1
    │   ├── DigestMismatch
    │   └── DiskFull
    ├── PreflightFailed            exit 1   a check failed, so the work was not begun
    ├── PreflightVeto              exit 1   raised by a before_train plugin
    ├── PluginError                exit 1   a plugin cannot be loaded or is required and missing
    │   └── PluginTimeout                   it exceeded its time limit
    ├── RunError                   exit 1   no such run, nothing to resume, no checkpoint yet
    ├── DataError                  exit 1   a dataset file is invalid (file, episode, step, field)
    ├── WeightsError               exit 1   pretrained weights or a checkpoint do not fit
    ├── LocalFileError             exit 1   a file or folder of this laptop cannot be used
    ├── SimulatorError             exit 1   LIBERO's simulator is missing or cannot do what was asked
    └── LabError                   exit 1   the local lab cannot be started

The message says what, where and why; `remedy` is the next command to type. Only rdtops.ui.cli prints and exits.
"""


class RdtopsError(Exception):
    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __reduce__(self):  # type: ignore[no-untyped-def]  # keyword-only arguments do not pickle by themselves
        return _rebuild, (type(self), self.message, self.remedy)


def _rebuild(kind: type[RdtopsError], message: str, remedy: str) -> RdtopsError:
    return kind(message, remedy=remedy)


class UsageError(RdtopsError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class HostError(RdtopsError):
    exit_code = 3


class Unreachable(HostError):
    pass


class Incompatible(Unreachable):
    """A hop and Fabric have no algorithm in common."""


class HostKeyError(HostError):
    pass


class AuthenticationFailed(HostError):
    pass


class LoginShellError(HostError):
    pass


class SessionRefused(HostError):
    pass


class ConnectionLost(HostError):
    hop = ""  # the one that failed, where that is known


class RemoteError(RdtopsError):
    pass


class CommandFailed(RemoteError):
    pass


class CommandTimeout(RemoteError):
    pass


class TransferError(RdtopsError):
    pass


class DigestMismatch(TransferError):
    pass


class DiskFull(TransferError):
    pass


class PreflightFailed(RdtopsError):
    pass


class PreflightVeto(RdtopsError):
    pass


class PluginError(RdtopsError):
    pass


class PluginTimeout(PluginError):
    pass


class RunError(RdtopsError):
    pass


class DataError(RdtopsError):
    pass


class WeightsError(RdtopsError):
    pass


class LocalFileError(RdtopsError):
    pass


class SimulatorError(RdtopsError):
    pass


class LabError(RdtopsError):
    pass
