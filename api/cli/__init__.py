"""The command line, `ranksieve …`: one module per group of commands.

Parses, prints and exits; a command that works without a server runs the whole service in its process. What
takes long to import is imported by the command that needs it.
"""
