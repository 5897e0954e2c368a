"""What daemon and worker say to each other, and what the daemon makes of a worker that lies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.confined.text import MAX_TEXT, one_line
from vzfs.decoding.wire import MAX_REPLY, Outcome, Reply, Request


@given(st.builds(Request, *[st.integers(0, 2**64 - 1)] * 3))
def test_a_request_comes_as_it_was_sent(request: Request) -> None:
    """A request says three lengths."""
    assert Request.decode(request.encode()) == request


@given(st.sampled_from(Outcome), st.booleans(), st.text())
def test_a_reply_is_one_short_line(outcome: Outcome, is_last: bool, text: str) -> None:
    """A reply of any text can be sent, and comes as one line that is printable."""
    message = Reply(outcome, is_last, text).encode()
    reply = Reply.decode(message)

    assert len(message) <= MAX_REPLY
    assert (reply.outcome, reply.is_last) == (outcome, is_last)
    assert reply.text.isprintable()
    assert len(reply.text) <= MAX_TEXT + len("...")


@given(st.binary(max_size=MAX_REPLY + 1))
def test_whatever_a_worker_says_is_a_reply_or_refused(message: bytes) -> None:
    """Any bytes are a reply with printable text, or raise ValueError."""
    try:
        reply = Reply.decode(message)
    except ValueError:
        return
    assert reply.text.isprintable()
    assert len(reply.text) <= MAX_TEXT + len("...")


@pytest.mark.parametrize("message", [b"", b"\0", b"\0\2", b"\4\0", bytes(MAX_REPLY + 1)])
def test_what_is_no_reply_is_refused(message: bytes) -> None:
    """An unknown outcome, and a message that is too short or too long, are no replies."""
    with pytest.raises(ValueError, match=r"no sense|Outcome"):
        Reply.decode(message)


def test_a_line_has_nothing_that_a_terminal_obeys() -> None:
    """Control characters and line breaks become spaces."""
    assert one_line("a\nb\x1b[31m\u202ec ") == "a b [31m c"
