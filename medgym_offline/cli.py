"""The command line: `medgym-offline`. Each command is a few lines over the library, in `medgym_offline.commands`.

Nothing heavy is imported here or there at module level, so that `--help` and shell completion answer at once.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from medgym_offline.commands import board, clinical, data, demo, judge, learn
from medgym_offline.compute import keep_memory
from medgym_offline.errors import MedGymError

__all__ = ["app", "main"]


def _debug() -> bool:
    return os.environ.get("MEDGYM_DEBUG", "") not in ("", "0")


def _fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)  # one line, however the message was made
    raise typer.Exit(1)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


class _OneLine(TyperGroup):
    """Turns a user's mistake into one line and exit code 1; wrong usage stays 2, an interrupt is 130."""

    def invoke(self, ctx: Any) -> Any:
        # The tensors are small stacks: a second thread makes them slower, on a busy machine ten times slower.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        keep_memory()
        try:
            with warnings.catch_warnings():
                if not _debug():
                    warnings.showwarning = _warn
                return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except MedGymError as error:
            if _debug():
                raise
            _fail(str(error))
        except OSError as error:
            if _debug() or error.errno in (None, errno.EPIPE):
                raise
            _fail(f"{error.filename or 'file system'}: {error.strerror}")


app = typer.Typer(
    cls=_OneLine,
    name="medgym-offline",
    help="Offline reinforcement learning for treatment: simulators, datasets, algorithms, evaluator, leaderboard.",
    epilog="Example: medgym-offline demo.  Every command has --help with an example. A full traceback: MEDGYM_DEBUG=1.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from medgym_offline.files import code_version

        print(f"medgym-offline {code_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


_GROUPS = {
    "behavior": "Policies that make datasets. Example: behavior train --bank sepsis-v0",
    "leaderboard": "Entries, re-executed. Example: leaderboard verify runs/submission",
    "cohort": "Clinical records to one table. Example: cohort build DIR -o T",
    "simulators": "Patient simulators. Example: simulators info sepsis-v0",
}
_apps = {name: typer.Typer(no_args_is_help=True, help=text) for name, text in _GROUPS.items()}
for _name, _app in _apps.items():
    app.add_typer(_app, name=_name)
for _module in (demo, judge, data, learn, board, clinical):
    for _command in _module.COMMANDS:  # `eval_command` is `eval`, `cohort_build` is `cohort build`
        _group, _, _name = _command.__name__.partition("_")
        _apps.get(_group, app).command(_name if _group in _apps else _group)(_command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line on `argv` (the process's arguments if None); always ends in `SystemExit`."""
    app(args=None if argv is None else list(argv), prog_name="medgym-offline")
