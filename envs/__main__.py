"""`python -m gumbelrl.envs`: the environments, what each separates, and its optimum."""

from __future__ import annotations

import argparse
import sys
import textwrap

from gumbelrl.envs.listing import details, listing, markdown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gumbelrl.envs", description="List the native environments.")
    parser.add_argument("names", nargs="*", help="show these in full; a part of the name is enough")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/environments.md")
    options = parser.parse_args()
    rows = [row for row in listing() if not options.names or any(n.lower() in row.name.lower() for n in options.names)]
    if not rows:
        print(f"no environment's name contains {' or '.join(options.names)}", file=sys.stderr)
        return 2
    if options.markdown:
        print(markdown(rows))
        return 0
    if options.names:
        for row in rows:
            print(details(row), end="\n\n")
        return 0
    width = max(len(row.name) for row in rows)
    for row in rows:
        summary = textwrap.shorten(row.summary, 70, placeholder=" …")
        print(f"{row.name:{width}}  {row.action:20}  optimum {row.optimum:>8}  {summary}")
    print("\n`python -m gumbelrl.envs NAME` says more; --env takes these names and any gymnasium id")
    return 0


if __name__ == "__main__":
    sys.exit(main())
