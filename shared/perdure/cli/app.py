"""The command line: every command, and the exit code of whatever happens."""

import sys
from collections.abc import Sequence

from cyclopts import App
from cyclopts.exceptions import CycloptsError

import perdure
from perdure.cli import audit, flows, groups, jobs, keys, people, run, runtime, serve, tenants
from perdure.cli.demo import demo
from perdure.cli.doctor import doctor
from perdure.cli.session import Exit, report
from perdure.errors import PerdureError

app = App(
    name="perdure",
    help="Runs flows in the background, durably, and lets them stop for a person.",
    version=perdure.__version__,
    help_epilogue=(
        "Exit codes: 0 done, 1 it failed, 2 wrong use, 3 refused, 4 not there, 5 conflict, 6 not reachable, "
        "7 stopped waiting, 8 waits for a person, 9 cancelled, 130 interrupted."
    ),
    suppress_keyboard_interrupt=False,
)
for command in (serve.up, demo, run.run, run.watch, people.answer, jobs.cancel, jobs.subject, runtime.queues):
    app.command(command)
for group in (people.app, jobs.app, flows.app, keys.app, groups.app, runtime.app, tenants.app, audit.app, serve.app):
    app.command(group)
for process in (serve.gateway, serve.runner, serve.sweeper, doctor):
    app.command(process)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (see `session.Exit`)."""
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(tokens, exit_on_error=False, result_action="return_value")
    except CycloptsError:  # said already, with the usage
        return Exit.USAGE
    except PerdureError as exc:
        return report(exc)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our lines has left
        sys.stderr.close()
        return Exit.INTERRUPTED
    return code if isinstance(code, int) else Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
