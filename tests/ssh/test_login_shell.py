"""The answer of a host begins after what its login shell printed."""

from hypothesis import given
from hypothesis import strategies as st

from rdtops.ssh.channels.login_shell import NOISE_BYTES, Preamble
from rdtops.ssh.command import READY

noise = st.binary(max_size=40).filter(lambda text: READY not in text + READY[:-1])


@given(noise, st.binary(max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_an_answer_is_what_comes_after_the_first_marker_wherever_the_pieces_end(before, answer, sizes):
    sent, got, at = before + READY + answer, b"", 0
    preamble = Preamble()
    while at < len(sent):
        size = sizes[at % len(sizes)]
        got += preamble.rest(sent[at:at + size])
        at += size
    assert (got, preamble.noise, preamble.is_over) == (answer, before, True)


def test_an_answer_may_hold_the_marker():
    preamble = Preamble()
    assert preamble.rest(b"Welcome" + READY + b"a" + READY + b"b") == b"a" + READY + b"b"
    assert preamble.noise == b"Welcome"


def test_endless_noise_is_not_kept():
    preamble = Preamble()
    for _ in range(100):
        assert preamble.rest(bytes(1 << 16)) == b""
    assert preamble.is_too_long
    assert len(preamble.noise) <= NOISE_BYTES + (1 << 16)
