"""What the GitHub provider accepts as authentic, what it reads, and which forge sent what."""

from __future__ import annotations

import pytest
from github_deliveries import headers, own, signature
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from webhook.providers import NotYetSupported, UnknownForge, recognise
from webhook.providers.base import BadPayload, BadSignature, Hook, Kind, same_repository
from webhook.providers.github import GitHub

SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
# Source: docs.github.com, "Validating webhook deliveries", test vector.
DOCUMENTED = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_the_documented_example_is_authentic() -> None:
    GitHub().authenticate({"x-hub-signature-256": DOCUMENTED}, BODY, secrets=[SECRET])


def test_any_of_two_secrets_may_have_signed() -> None:
    GitHub().authenticate({"x-hub-signature-256": DOCUMENTED}, BODY, secrets=[b"new one", SECRET])


@pytest.mark.parametrize(
    "given_header",
    [
        "",
        "sha256=",
        "sha256=" + "0" * 64,
        DOCUMENTED[:-1],
        DOCUMENTED + "0",
        DOCUMENTED.removeprefix("sha256="),
        DOCUMENTED.replace("sha256", "sha1"),
        DOCUMENTED + "\n",
        "sha256=" + "\u00e9" * 64,
        "sha256=" + "\u0663" * 64,
    ],
)
def test_any_other_signature_is_refused(given_header: str) -> None:
    with pytest.raises(BadSignature):
        GitHub().authenticate({"x-hub-signature-256": given_header}, BODY, secrets=[SECRET])


def test_a_missing_signature_is_refused_even_with_a_correct_sha1_one() -> None:
    import hmac

    legacy = "sha1=" + hmac.new(SECRET, BODY, "sha1").hexdigest()
    with pytest.raises(BadSignature, match="no X-Hub-Signature-256"):
        GitHub().authenticate({"x-hub-signature": legacy}, BODY, secrets=[SECRET])


def test_a_signature_made_with_an_empty_secret_is_refused() -> None:
    given_headers = {"x-hub-signature-256": signature(BODY, b"")}
    with pytest.raises(BadSignature):
        GitHub().authenticate(given_headers, BODY, secrets=[b""])


def test_a_changed_byte_is_refused() -> None:
    with pytest.raises(BadSignature):
        GitHub().authenticate({"x-hub-signature-256": DOCUMENTED}, BODY + b" ", secrets=[SECRET])


def test_the_message_of_a_refusal_holds_no_secret() -> None:
    with pytest.raises(BadSignature) as refusal:
        GitHub().authenticate(
            {"x-hub-signature-256": "sha256=" + "0" * 64}, BODY, secrets=[b"hunter22"]
        )
    assert "hunter22" not in str(refusal.value)


def read(body: bytes, event: str = "push") -> Hook:
    return GitHub().read(Headers(headers(body, secret=SECRET, event=event)), body)


def test_a_push_gives_its_ref_and_its_newest_commit() -> None:
    hook = read(own("push_branch").body)
    assert hook == Hook(
        kind=Kind.PUSH,
        event="push",
        sender_id="72d3162e-cc78-11e3-81ab-4c9367dc0958",
        repository="acme/ops",
        actor="ada",
        ref="refs/heads/main",
        after="b2" * 20,
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"3", b"null", b"{", b'{"a":', b"\xff", b"[" * 10**5])
def test_a_body_that_is_no_json_object_is_a_bad_payload(body: bytes) -> None:
    with pytest.raises(BadPayload):
        read(body)


def test_the_message_of_a_bad_payload_does_not_quote_it() -> None:
    with pytest.raises(BadPayload) as refusal:
        read(b'["private words"]')
    assert "private" not in str(refusal.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=12,
)
_known_members = st.fixed_dictionaries(
    {},
    optional={
        name: _json | st.fixed_dictionaries({"full_name": _json, "login": _json, "name": _json})
        for name in ("repository", "sender", "pusher", "ref", "after", "head_commit", "commits")
    },
)


@settings(deadline=None)  # a busy machine is no failure
@given(payload=_known_members, event=st.sampled_from(["push", "ping", "issues", ""]))
def test_whatever_stands_in_the_members_the_hints_are_texts(
    payload: dict[str, object], event: str
) -> None:
    import json

    hook = read(json.dumps(payload).encode(), event)
    texts = (hook.event, hook.repository, hook.actor, hook.ref, hook.after)
    assert all(isinstance(text, str) and len(text) <= 1024 for text in texts)


def test_a_forge_is_recognised_by_its_most_specific_header() -> None:
    sent_by_gitea = {"x-github-event": "push", "x-gogs-event": "push", "x-gitea-event": "push"}
    with pytest.raises(NotYetSupported, match="Gitea"):
        recognise(sent_by_gitea)
    with pytest.raises(NotYetSupported, match="Forgejo"):
        recognise({**sent_by_gitea, "x-forgejo-event": "push"})
    with pytest.raises(UnknownForge):
        recognise({"x-hub-signature-256": DOCUMENTED})
    assert recognise({"x-github-event": "push"}).name == "github"


@pytest.mark.parametrize(
    ("configured", "named", "same"),
    [
        ("https://github.com/acme/ops.git", "acme/ops", True),
        ("https://github.com/Acme/Ops", "acme/ops", True),
        ("https://github.com/acme/ops/", "ACME/OPS", True),
        ("git@github.com:acme/ops.git", "acme/ops", True),
        ("ssh://git@example.com:2222/mirrors/acme/ops.git", "acme/ops", True),
        ("acme/ops", "acme/ops", True),
        ("http://127.0.0.1:8000/ops.git", "acme/ops", True),
        ("/srv/git/ops.git", "acme/ops", True),
        ("file:///srv/git/ops.git", "acme/ops", True),
        ("/home/ada/ops/.git", "acme/ops", True),
        ("https://github.com/acme/ops.git", "acme/shop", False),
        ("https://github.com/acme/ops.git", "evil/ops", False),
        ("https://github.com/notacme/ops.git", "acme/ops", False),
        ("/srv/git/ops.git", "acme/drops", False),
    ],
)
def test_a_payload_names_the_configured_repository(configured: str, named: str, same: bool) -> None:
    assert same_repository(configured, named) is same
