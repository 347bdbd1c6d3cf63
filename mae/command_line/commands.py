"""What makes a function a command, and a wrong option a line on stderr."""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, get_type_hints

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from mae.command_line.options import Options
from mae.command_line.output import reporting

_USAGE_ERROR: Any = typer.BadParameter.__base__
_AS_JSON = "mae-cli.json"
_LIMITS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "int_parsing": "a whole number",
    "float_parsing": "a number",
}


class Commands(TyperGroup):
    """The commands; a wrong one, and a wrong option, are told like any other mistake: one line and exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before the command's name."""
        ctx.meta[_AS_JSON] = "--json" in args
        if not args:  # the help is shown
            return super().parse_args(ctx, args)
        with _telling_usage(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Find the command, read its options, run it."""
        with _telling_usage(ctx):
            return super().invoke(ctx)


@contextmanager
def _telling_usage(context: Any) -> Iterator[None]:
    try:
        yield
    except _USAGE_ERROR as error:
        where = error.ctx.command_path if error.ctx else context.command_path
        told = f"{_in_words(error)}; see `{where} --help`"
        print(f"error: {told}", file=sys.stderr)
        if context.meta[_AS_JSON]:
            print(json.dumps({"error": told}))
        raise typer.Exit(2) from None


def _in_words(error: Any) -> str:
    """Return what is wrong with an option: `--seeds 0: expected at least 1`."""
    if not isinstance(error, typer.BadParameter) or error.param is None or not error.message:
        message = error.format_message().rstrip(".")
        return f"{message[0].lower()}{message[1:]}"
    option = error.param.opts[0]
    for cause in error.__cause__.errors() if isinstance(error.__cause__, ValidationError) else ():
        if limit := _LIMITS.get(cause["type"]):
            return f"{option} {cause['input']}: expected {limit.format(**cause.get('ctx', {}))}"
    return f"{option}: {error.message.removeprefix('Value error, ').rstrip('.')}"


def register(
    app: typer.Typer, name: str, takes: tuple[str, ...] = (), shared_by_processes: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make `function(options, output, ...)` a command that also takes the named fields of `Options`, or all.

    It refuses to run as one of several processes that torchrun has started, unless they are to share its work.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(Options, include_extras=True)
        shared = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
            for field in fields(Options)
            if not takes or field.name in takes
        ]
        own = list(inspect.signature(function).parameters.values())[2:]

        def run(*arguments: Any, **values: Any) -> None:
            options = Options(**{parameter.name: values.pop(parameter.name) for parameter in shared})
            with reporting(options.as_json) as output:
                _refuse_several_processes(name, shared_by_processes)
                function(options, output, *arguments, **values)

        parameters = [
            parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
            for parameter in [*(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), *shared]
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name)(run)
        return function

    return add


def _refuse_several_processes(name: str, shared_by_processes: bool) -> None:
    from mae.errors import UserError
    from mae.runtime.distributed import launched

    if not shared_by_processes and (count := launched().count) > 1:
        raise UserError(f"{name} is no work for {count} processes; torchrun can start pretrain, probe and run only")
