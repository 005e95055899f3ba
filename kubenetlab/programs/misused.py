"""misused: a program that prints an error about its arguments and exits with 1."""

from kubenetlab.programs.support.http import ProgramContext


async def main(context: ProgramContext) -> int:
    context.log(f"Error: {context.options['message']}")
    return 1
