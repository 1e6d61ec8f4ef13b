import io

from vqonnx.progress import silent, terminal_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_for_each_stage():
    stream = Terminal()
    with terminal_progress(stream) as progress:
        progress("observe", 1, 4)
        progress("observe", 4, 4)
        progress("solve", 1, None)
    assert "observe" in stream.getvalue()
    assert "solve" in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert "/s" in stream.getvalue()


def test_anything_else_gets_silence():
    stream = io.StringIO()
    with terminal_progress(stream) as progress:
        progress("observe", 1, 4)
    assert progress is silent
    assert not stream.getvalue()
