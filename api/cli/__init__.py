"""Command line, `ranksieve …`: one module per group of commands.

Parses, prints and exits. A command that works without a server runs the whole service in its process. Slow imports
happen inside the commands that need them.
"""
