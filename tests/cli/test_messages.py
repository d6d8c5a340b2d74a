"""What the command line says is shown as it is written."""

import pytest
import typer

from durably import cli


def test_brackets_in_a_message_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal library would take `[demo]` for a style and drop it."""
    with pytest.raises(typer.Exit) as ended:
        cli._fail("pip install 'durably[demo]'", 1)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "durably: pip install 'durably[demo]'\n"
