"""The token of a cluster: where it is looked for, what is refused, and that it never shows."""

import pytest

from nml_ray.cluster.auth_token import find_token
from nml_ray.config.errors import UserError

SECRET = "0123456789abcdef"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def private(path, text=SECRET + "\n", mode=0o600):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_there_need_be_none():
    assert find_token() is None


def test_places_in_their_order(home, monkeypatch):
    private(home / ".ray/auth_token", "own")
    assert find_token().value == "own"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(private(home / "named", "of-a-named-file")))
    assert find_token().value == "of-a-named-file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-environment")
    assert find_token().value == "of-the-environment"
    private(home / "token")
    assert find_token("~/token").value == SECRET
    assert find_token("~/token").source == str(home / "token")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_file_that_others_may_read_is_refused(home, mode):
    path = private(home / "token", mode=mode)
    with pytest.raises(UserError, match=f"open to others .*chmod 600 {path}"):
        find_token(str(path))


@pytest.mark.parametrize(
    ("text", "message"), [("", "holds no token"), (f"{SECRET} {SECRET}", "holds no token"), ("ü\n", "holds no token")]
)
def test_what_is_no_token_is_refused_and_never_shown(home, text, message):
    path = private(home / "token", text)
    with pytest.raises(UserError, match=message) as caught:
        find_token(str(path))
    assert SECRET not in str(caught.value)


def test_a_file_that_is_not_there(home):
    with pytest.raises(UserError, match=r"token_file: .*cannot be read"):
        find_token(str(home / "nothing"))


def test_a_path_means_the_same_everywhere():
    with pytest.raises(UserError, match="absolute path"):
        find_token("token")


def test_a_token_does_not_show_itself(home):
    assert SECRET not in repr(find_token(str(private(home / "token"))))
