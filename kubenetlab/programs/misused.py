"""A program that was given arguments it does not understand: it says so and ends."""

from kubenetlab.programs.http import Me


async def main(me: Me) -> int:
    me.log(f"Error: {me.options['message']}")
    return 1
