"""What may be shown of a text that holds secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.ssh.hosts import Environment, Host
from rdtops.ssh.redaction import is_secret, redacted, secrets_of

HOST = Host(name="h", address="192.0.2.1", env={
    "HF_ENDPOINT": "http://ann:p%40ssword@mirror:8080/hub", "https_proxy": "http://proxy-user:proxy-word@192.0.2.9:3128",
    "HF_TOKEN": "hf_abcdef", "NCCL_DEBUG": "INFO"},
    environment=Environment(venv="~/v", index_url="https://__token__:index-word@pypi.example.org/simple"),
    plugins={"encoder_mirror": {"endpoint": "https://only-a-token@m.example.org", "deep": [{"x": "no://u:deep-word@h"}]}})


def test_the_secrets_of_a_host_are_found_wherever_its_table_has_them():
    assert secrets_of(HOST) == {"p%40ssword", "p@ssword", "proxy-word", "hf_abcdef", "index-word", "only-a-token",
                                "deep-word"}
    assert [name for name, value in HOST.env.items() if is_secret(name, value)] == ["HF_ENDPOINT", "https_proxy",
                                                                                    "HF_TOKEN"]


@pytest.mark.parametrize(("text", "shown"), [
    ("cannot reach http://ann:p%40ssword@mirror:8080/hub, so", "cannot reach http://***@mirror:8080/hub, so"),
    ("InvalidURL: nonnumeric port: 'p@ssword@mirror'", "InvalidURL: nonnumeric port: '***@mirror'"),
    ("https://x.example.org/a@b and mail@example.org", "https://x.example.org/a@b and mail@example.org"),
    ("http://a:b@c:d@e/", "http://***@e/"), ("", "")])
def test_addresses_lose_their_passwords_and_texts_what_is_known(text, shown):
    assert redacted(text, secrets_of(HOST)) == shown


@given(st.text(), st.sampled_from(sorted(secrets_of(HOST))), st.text())
def test_no_text_keeps_a_secret(before, secret, after):
    assert secret not in redacted(before + secret + after, secrets_of(HOST))
