import pytest

from ranksieve.search.errors import InputError
from ranksieve.service.server.keys import Principal, Scope, check_owner, digest_of, id_of, new_token


def test_tokens_differ_and_tell_their_id() -> None:
    tokens = {new_token() for _ in range(100)}

    assert len(tokens) == len({id_of(token) for token in tokens}) == 100
    assert all(len(token) >= 43 + 12 for token in tokens)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rsk",
        "s3cret",
        "rsk_0_0",
        pytest.param(new_token()[:-1], id="too short"),
        pytest.param(new_token() + "x", id="too long"),
        "rsk_\0",
    ],
)
def test_other_text_is_no_token(text: str) -> None:
    assert id_of(text) is None


def test_a_digest_is_a_sha256_and_holds_nothing_of_its_token() -> None:
    token = new_token()

    assert (
        digest_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2, B.1
    assert digest_of(token) not in token
    assert token.split("_", 2)[2] not in digest_of(token)


@pytest.mark.parametrize(
    ("scope", "includes"),
    [
        (Scope.READ, {Scope.READ}),
        (Scope.SUBMIT, {Scope.READ, Scope.SUBMIT}),
        (Scope.ADMIN, {Scope.READ, Scope.SUBMIT, Scope.ADMIN}),
    ],
)
def test_each_scope_includes_the_ones_before_it(scope: Scope, includes: set[Scope]) -> None:
    assert {other for other in Scope if scope.includes(other)} == includes


def test_an_admin_sees_everybodys_jobs_and_others_their_own() -> None:
    assert Principal.admin().sees is None
    assert Principal(owner="alice", scope=Scope.ADMIN).sees is None
    assert Principal(owner="alice", scope=Scope.SUBMIT).sees == "alice"


@pytest.mark.parametrize("owner", ["alice", "team-7", "a.b@c.example", "0"])
def test_an_owner_has_a_plain_name(owner: str) -> None:
    check_owner(owner)


@pytest.mark.parametrize("owner", ["", " ", "-rf", "a b", "al\0ice", "ali\u0441e", "x" * 101])
def test_a_name_that_could_be_mistaken_is_refused(owner: str) -> None:
    with pytest.raises(InputError, match="owner: must be up to 100 letters"):
        check_owner(owner)
