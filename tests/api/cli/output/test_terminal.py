"""Keeping stdout clean."""

import os
import sys

from ranksieve.api.cli.output.terminal import stdout_to_stderr


def test_what_is_written_in_the_block_goes_to_stderr_and_what_comes_after_does_not(capfd):
    with stdout_to_stderr():
        sys.stdout.write("from python\n")
        sys.stdout.flush()
        os.write(1, b"from below\n")
    sys.stdout.write("result\n")
    sys.stdout.flush()

    captured = capfd.readouterr()
    assert captured.out == "result\n"
    assert "from below" in captured.err
    assert "from python" in captured.err
