"""The command line: `thermograd VERB ...`.

Exit codes: 0 done, 1 failed while working, 2 bad input, 130 stopped by Ctrl-C. What a user causes is one line on
stderr; `--debug` shows the traceback. Verbs import what they need when they run, so `--help` is quick.
"""

import sys
import traceback
import warnings
from collections.abc import Sequence

import click

from thermograd.cli import (
    comparison,
    data,
    doctor,
    measure,
    report,
    settings,
    share,
    study,
    train,
    validate,
    variance,
)
from thermograd.config.plugins import plugin_at_fault
from thermograd.errors import InputError, RunError, failure, is_out_of_memory, missing_extra, one_line
from thermograd.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="thermograd")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def app(debug: bool) -> None:
    """Train latent space energy-based prior models, and measure how they learn.

    \b
    thermograd train mnist-5k          train on 5,000 real digits
    thermograd sample DIR              draw images from a trained model
    thermograd evaluate DIR            score it on the test set
    """


for command in (
    train.train,
    train.resume,
    measure.sample,
    measure.evaluate,
    measure.measure,
    comparison.compare,
    measure.evidence,
    variance.variance,
    share.export,
    share.push,
    settings.settings,
    settings.presets,
    data.data,
    doctor.doctor,
    study.study,
    report.report,
    validate.validate,
):
    app.add_command(command)


DAMAGE = (
    "SafetensorError",
    "UnicodeDecodeError",
    "JSONDecodeError",
    "RecursionError",
    "BadZipFile",
    "EOFError",
)
"""What libraries raise for a file that is not what its name says, by name, since they are imported when needed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    debug = "--debug" in arguments
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(arguments, debug)


def _run(arguments: list[str], debug: bool) -> int:
    try:
        # Without its standalone mode click returns the code of an `Exit` instead of raising it.
        code = app.main([word for word in arguments if word != "--debug"], standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort as stop:  # click's word for Ctrl-C, which may say how to go on
        return _fail(f"stopped. {stop.__cause__ or ''}".rstrip(), 130, debug)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a verb: its help, as it is laid out
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.ClickException as error:
        return _fail(" ".join(error.format_message().split()), 2, debug)
    except InputError as error:
        return _fail(str(error), 2, debug)
    except RunError as error:
        return _fail(str(error), 1, debug)
    except KeyboardInterrupt:
        return _fail("stopped.", 130, debug)
    except BrokenPipeError:
        return 1
    except Exception as error:
        line = missing_extra(error)
        if line is not None:
            return _fail(line, 2, debug)
        if isinstance(error, OSError) or is_out_of_memory(error):
            return _fail(f"{failure(error)}.", 1, debug)
        if type(error).__name__ in DAMAGE:
            return _fail(f"a file that was read is damaged ({failure(error)}).", 2, debug)
        message = " ".join(f"{type(error).__name__}: {error}".split())
        place = plugin_at_fault(error)
        if place is not None:
            return _fail(f"the plugin {place}, raises {message}", 1, debug)
        return _fail(f"a defect of thermograd, please report it with --debug: {message}", 1, debug)
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, *place: object, **more: object) -> None:
    print(f"warning: {one_line(str(message))}", file=sys.stderr)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"thermograd: {one_line(message)}", file=sys.stderr)
    return code
