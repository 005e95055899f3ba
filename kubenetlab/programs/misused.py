"""A program that was given arguments it does not understand: it says so and ends."""

from kubenetlab.programs.http import PodIdentity


async def main(me: PodIdentity) -> int:
    me.log(f"Error: {me.options['message']}")
    return 1
