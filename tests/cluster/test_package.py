"""What is sent with a job: as Git would have it, no secrets, nothing too large, the same digest for the same code."""

import os
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nml_ray
from nml_ray.cluster import collect as collecting
from nml_ray.cluster.collect import collect, largest
from nml_ray.cluster.config import CodeSettings
from nml_ray.cluster.package import CodeFile, Package
from nml_ray.config.errors import UserError

CERTIFICATE = f"-----BEGIN CERTIFICATE-----\n{'MIIB' * 16}\n-----END CERTIFICATE-----\n"
KUBECONFIG = "apiVersion: v1\nkind: Config\nusers:\n- name: me\n  user:\n"
JOB = "job.yaml"


def tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """A directory with a job, this package's name (so that the real one need not be sent) and some files."""
    for name, content in {JOB: "name: x\n", "nml_ray/__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def sent(root: Path, job: Path | None = None, leave: tuple[Path, ...] = (), **code: object) -> list[str]:
    found = collect(CodeSettings(directory=str(root), **code), job or root / JOB, leave)
    names = [file.name for file in found.package.files]
    assert names == sorted(names)
    assert found.job in names
    return [name for name in names if name not in (JOB, "nml_ray/__init__.py")]


def test_code_is_sent_and_caches_environments_and_storages_stay(tmp_path):
    root = tree(
        tmp_path,
        {
            "a.py": "",
            "deep/er/b.txt": "",
            ".git/config": "",
            "deep/.git": "gitdir: elsewhere",
            "my-env/pyvenv.cfg": "",
            "my-env/lib/x.py": "",
            "conda/conda-meta/history": "",
            "conda/x.py": "",
            "deep/__pycache__/b.pyc": "",
            "old.pyc": "",
            ".mypy_cache/x": "",
            "cached/CACHEDIR.TAG": "",
            "cached/x": "",
            "runs/studies/demo/job.yaml": "",
            "runs/shards/abc/record.json": "",
            "results/submissions/x/job.yaml": "",
        },
    )
    assert sent(root, leave=(tmp_path / "results",)) == ["a.py", "deep/er/b.txt"]


def test_ignore_files_count_where_they_lie_and_nmlignore_has_the_last_word(tmp_path):
    root = tree(
        tmp_path,
        {
            ".gitignore": "*.bin\n/data/\n!kept.bin\n",
            ".nmlignore": "!weights.bin\nnotes.txt\n",
            "one.bin": "",
            "kept.bin": "",
            "weights.bin": "",
            "notes.txt": "",
            "data/x.py": "",
            "sub/data/x.py": "",
            "sub/.gitignore": "!one.bin\n/only-here\n",
            "sub/one.bin": "",
            "sub/only-here": "",
            "sub/deep/only-here": "",
            "big/a.npy": "",
        },
    )
    names = sent(root, exclude=("big/", "!notes.txt"))
    assert [name for name in names if "ignore" not in name] == [
        *("kept.bin", "sub/data/x.py", "sub/deep/only-here", "sub/one.bin", "weights.bin")
    ]


NAMES = st.sampled_from(["a", "b", "build", "x.log", "x.txt", "keep.log"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
LINES = st.one_of(
    st.sampled_from(["*", "*.log", "!keep.log", "# words", "", "build/", "/a", "a/b", "**/b", "a/**/b", "b/**", "!*/"]),
    PATHS,
    PATHS.map(lambda path: f"!{path}"),
    PATHS.map(lambda path: f"/{path}/"),
)


@settings(max_examples=60)
@given(
    files=st.lists(PATHS, min_size=1, max_size=12),
    ignores=st.dictionaries(st.sampled_from(["", "a/", "build/", "a/b/"]), st.lists(LINES, max_size=5), max_size=3),
)
def test_what_git_ignores_stays_behind(tmp_path_factory, files, ignores):
    root = tmp_path_factory.mktemp("tree")
    contents = dict.fromkeys(files, "") | {f"{at}.gitignore": "\n".join(lines) + "\n" for at, lines in ignores.items()}
    for name, content in contents.items():
        try:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    git = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": os.environ["PATH"]}
    subprocess.run(["git", "init", "-q"], cwd=root, env=git, check=True)
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, env=git, check=True, capture_output=True, text=True).stdout
    expected = {name for name in listed.split("\0") if name}
    job = tree(tmp_path_factory.mktemp("elsewhere"), {}) / JOB
    walked = {name for name in sent(root, job) if not name.startswith(("nml_ray/", "submitted/"))}
    assert walked == expected


def test_the_package_itself_goes_along_where_it_is_not_there(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text("x = 1")
    job = tmp_path / "far" / "away.yaml"
    job.parent.mkdir()
    job.write_text("name: away")
    found = collect(CodeSettings(directory=str(tmp_path / "code")), job)
    found.package.copy_to(tmp_path / "there")
    assert found.job == "submitted/away.yaml"
    assert (tmp_path / "there" / found.job).read_text() == "name: away"
    source = Path(nml_ray.__file__).parent
    assert (tmp_path / "there/nml_ray/cluster/collect.py").read_bytes() == (source / "cluster/collect.py").read_bytes()
    assert not [file.name for file in found.package.files if "__pycache__" in file.name]


def test_a_job_file_that_is_ignored_travels_all_the_same(tmp_path):
    root = tree(tmp_path, {".gitignore": "*.yaml\n"})
    assert JOB in [file.name for file in collect(CodeSettings(directory=str(root)), root / JOB).package.files]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (".env", "A=1", "a file of environment variables"),
        ("deploy/.env.production", "", "a file of environment variables"),
        ("id_rsa", "", "a private key"),
        ("keys/server.pem", "", "a private key"),
        ("Server.KEY", "", "a private key"),
        ("harmless.txt", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "a private key"),
        ("harmless.py", "\ufeff\n-----BEGIN PRIVATE KEY-----\n", "a private key"),
        ("notes.txt", "Bag Attributes\n-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIC", "a private key"),
        ("both.pem", CERTIFICATE + "-----BEGIN RSA PRIVATE KEY-----\nMIIC", "a private key"),
        ("both.crt", CERTIFICATE + "-----BEGIN RSA PRIVATE KEY-----\nMIIC", "a private key"),
        ("late.pem", CERTIFICATE * 5000 + "-----BEGIN PRIVATE KEY-----\nMIIC", "a private key"),
        ("huge.pem", CERTIFICATE * 60000, "a private key"),
        ("of_windows", "PuTTY-User-Key-File-3: ssh-ed25519", "a private key"),
        *((name, "", "a private key") for name in ("a.p12", "a.pfx", "a.jks", "id_ed25519", "a.ppk")),
        (".ssh/my.pem", CERTIFICATE, "one of the credentials in .ssh"),
        (".docker/config.json", "{}", "one of the credentials in .docker"),
        ("sso.json", '{"client_secret": "d-FL95Q19q7", "refresh_token": "1//0abcdefgh"}', "a file of credentials"),
        ("aws.ini", "[default]\naws_secret_access_key = wJalrXUtnFEMIK7MDENGbPx", "a file of credentials"),
        ("kubeconfig", "", "a file of credentials"),
        ("lab.yaml", KUBECONFIG + "    token: eyJhbGciOi\n", "a file of credentials"),
        ("lab.conf", KUBECONFIG + "    client-key-data: LS0tLS1CRUdJTg==\n", "a file of credentials"),
        ("logins", "machine example.org login me password 123\n", "a file of passwords"),
        ("key.json", '{"type": "x", "private_key": "-----BEGIN PRIVATE KEY-----"}', "a file of credentials"),
        (".netrc", "", "a file of passwords"),
        ("hf_token", "", "a token"),
        ("config/api.token", "", "a token"),
        ("token.txt", "", "a token"),
        ("credentials", "", "a file of credentials"),
        ("home/.aws/config", "", "one of the credentials in .aws"),
        ("application_default_credentials.json", "", "a file of credentials"),
        *((name, "", "a file of environment variables") for name in ("prod.env.local", ".Renviron", ".env.bak")),
        *((name, "", "a private key") for name in ("id_rsa.bak", "id_ed25519_old", "id_rsa~", "server.key.orig")),
        *((name, "", "a file of credentials") for name in ("kaggle.json", ".databrickscfg", "prod.tfvars")),
        ("notes.txt", f"see gh{'p'}_{'a1' * 18}", "a token"),
        ("settings.ini", f"hub=hf{'_'}{'aB' * 17}\n", "a token"),
        (".npmrc", "//registry.example.org/:_authToken=0123456789ab", "a file of passwords"),
        ("passwords.txt", "site: example.org\npassword: correct-horse", "a file of passwords"),
        ("api_key.txt", "0123456789abcdef0123456789abcdef\n", "a file of passwords"),
        (".aws_keys", "access_key = wJalrXUtnFEMIK7MDENG", "a file of passwords"),
        ("pip.conf", "[global]\nindex-url = https://me:hunter2@pypi.example.org/simple\n", "a file of passwords"),
    ],
)
def test_secrets_are_refused_by_name_and_content(tmp_path, name, content, kind):
    root = tree(tmp_path, {name: content})
    with pytest.raises(UserError) as told:
        sent(root)
    assert str(told.value).startswith(f"{root / name}: looks like {kind}, which is never sent; ")
    assert f"'/{name}' in .nmlignore" in str(told.value)
    (root / ".nmlignore").write_text(f"/{name}\n")
    assert sent(root) == [".nmlignore"]


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "token_loss.py", "special_tokens_map.json", "tokens.txt", ".env.example", "keys.py"),
        *("id_rsa.pub", "environment.yaml", "credentials.py", "monkey.txt"),
    ],
)
def test_what_only_sounds_like_a_secret_is_sent(tmp_path, name):
    assert sent(tree(tmp_path, {name: "see -----BEGIN PRIVATE KEY-----"})) == [name]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("authority.pem", CERTIFICATE),
        ("authorities.pem", "# a comment\n" + CERTIFICATE * 2000),
        ("public.pem", "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n"),
        ("lab.yaml", KUBECONFIG + "    exec: {command: aws-iam-authenticator}\n"),
        ("model.yaml", "kind: Config\ntoken: cls\n"),
        ("data.json", '{"private_key": null, "client_secret": ""}'),
        ("passwords.txt", "123456\npassword\nqwerty\nsecret\nletmein\n"),
        ("passwords.txt", ""),
        ("secrets.csv", "word,count\npassword,12\nsecret,3\n"),
        ("api_key.txt", "put your key here\n"),
        (".npmrc", "registry=https://registry.example.org/\n//registry.example.org/:_authToken=${NPM_TOKEN}\n"),
        ("pip.conf", "[global]\nindex-url = https://pypi.example.org/simple\n"),
        ("keys.yaml", "key: n01440764/n01440764_1000\n"),
        ("vocabulary.txt", "hf_\nghp_\nsk-\nAKIAIOSFODNN7EXAMPLE\n"),
        ("id_rsa.pub", "ssh-rsa AAAAB3NzaC1yc2E me@example.org\n"),
        ("local.env.example", "TOKEN=\n"),
    ],
)
def test_what_has_no_secret_in_it_is_sent(tmp_path, name, content):
    assert sent(tree(tmp_path, {name: content})) == [name]


def test_little_is_read_of_large_files(tmp_path):
    root = tree(tmp_path, {"weights.bin": ""})
    with open(root / "weights.bin", "wb") as file:
        file.truncate(50 << 30)  # of zeros, which take no room
    with pytest.raises(UserError, match="more than 100MiB"):
        sent(root)


def test_links_inside_are_followed_and_those_outside_refused(tmp_path):
    root = tree(tmp_path / "code", {"real/a.py": "1", "real/b/c.py": "2"})
    (root / "again").symlink_to("real", target_is_directory=True)
    (root / "a_link.py").symlink_to(root / "real/a.py")
    (root / "real/up").symlink_to("..", target_is_directory=True)
    (root / ".#lock").symlink_to("somebody@host.1234")
    (root / "circle").symlink_to("circle")
    names = ["a_link.py", "again/a.py", "again/b/c.py", "real/a.py", "real/b/c.py"]
    assert sent(root) == names
    (tmp_path / "data").mkdir()
    (root / "data").symlink_to(tmp_path / "data")
    with pytest.raises(UserError, match=r"'data' is a link to .*/data, outside of what is sent; .*\.nmlignore"):
        sent(root)
    (root / ".nmlignore").write_text("data\n")
    assert sent(root) == [".nmlignore", *names]
    (root / "nowhere").symlink_to("/not/there/at/all")
    with pytest.raises(UserError, match="'nowhere' is a link to /not/there/at/all"):
        sent(root)


def test_a_link_is_no_way_around_names_and_rules(tmp_path):
    root = tree(tmp_path, {"real/a.py": "", "real/key.txt": "", "data/x.bin": "", "env/pyvenv.cfg": "", "env/x": ""})
    (root / "harmless.cfg").symlink_to("real/hf_token")
    (root / "real/hf_token").write_text("x")
    (root / ".nmlignore").write_text("/real/hf_token\n/real/key.txt\n/data/\n")
    (root / "again").symlink_to("real", target_is_directory=True)
    (root / "set").symlink_to("data", target_is_directory=True)
    (root / "x.txt").symlink_to("data/x.bin")
    (root / "y").symlink_to("env/x")
    assert sent(root) == [".nmlignore", "again/a.py", "real/a.py"]
    (root / ".nmlignore").write_text("/real/hf_token\n!/harmless.cfg\n")
    assert "harmless.cfg" not in sent(root, exclude=("again",))
    (root / ".nmlignore").write_text("hf_token\n")
    (root / "secrets.yaml").write_text("a: 1")
    (root / "settings.yaml").symlink_to("secrets.yaml")
    with pytest.raises(UserError, match=r"secrets.yaml: looks like a file of credentials"):
        sent(root)
    (root / ".nmlignore").write_text("hf_token\n/secrets.yaml\n")
    assert "settings.yaml" not in sent(root)


def test_a_link_to_a_secret_is_refused_by_the_name_of_what_it_leads_to(tmp_path):
    root = tree(tmp_path, {"secrets.yaml": "a: 1"})
    (root / "also.py").symlink_to("secrets.yaml")
    with pytest.raises(UserError, match=r"also.py: looks like a file of credentials, which is never sent"):
        sent(root)


def test_too_much_is_refused_with_what_is_largest(tmp_path):
    root = tree(tmp_path, {f"data/shards/{n}.tar": b"x" * 150_000 for n in range(8)} | {"model.bin": b"x" * 300_000})
    assert len(sent(root, limit="2MB")) == 9
    with pytest.raises(UserError) as told:
        sent(root, limit="1M")
    assert str(told.value).splitlines() == [
        f"{root}: 1.5 MB in 11 files would be sent, more than 1M; expected less: name in .nmlignore what is no code; "
        "data is read where it lies, by path or URL. The largest:",
        "    1.2 MB  data/shards/ (8 files)",
        "    300 kB  model.bin",
        "       8 B  job.yaml",
        "       0 B  nml_ray/__init__.py",
    ]


def test_too_many_files_are_refused_before_all_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "MOST_FILES", 20)
    root = tree(tmp_path, {f"images/train/{n}.jpg": "" for n in range(40)})
    with pytest.raises(UserError, match="more than 20 files would be sent") as told:
        sent(root)
    assert "  images/train/ (" in str(told.value).splitlines()[1]


@settings(max_examples=60)
@given(sizes=st.dictionaries(PATHS, st.integers(0, 10**9), min_size=1, max_size=30), count=st.booleans())
def test_the_table_names_at_most_ten_things_once(sizes, count):
    names = [name for name in sizes if not any(other.startswith(f"{name}/") for other in sizes)]
    rows = [row.split("  ")[-1] for row in largest([CodeFile(name, Path(name), sizes[name]) for name in names], count)]
    assert 1 <= len(rows) <= 10
    assert len(set(rows)) == len(rows)
    assert all(any(name.startswith(row.partition("/ (")[0]) for name in names) for row in rows)


FILES = st.dictionaries(st.sampled_from(["a.py", "b/c.py", "b/d.txt", "e"]), st.binary(max_size=20), min_size=1)


@settings(max_examples=30)
@given(one=FILES, other=FILES)
def test_the_digest_is_of_names_and_contents_alone(tmp_path_factory, one, other):
    def packed(files: Mapping[str, bytes]) -> Package:
        root = tree(tmp_path_factory.mktemp("code"), files)
        os.utime(root / JOB, (1, 1))
        return collect(CodeSettings(directory=str(root)), root / JOB).package

    assert packed(one).digest == packed(dict(reversed(one.items()))).digest
    assert (packed(one).digest == packed(other).digest) == (one == other)


def test_an_archive_of_the_same_files_has_the_same_bytes(tmp_path):
    root = tree(tmp_path / "code", {"a.py": "x = 1\n", "b/c.txt": "é"})
    package = collect(CodeSettings(directory=str(root)), root / JOB).package
    package.write_zip(tmp_path / "1.zip")
    os.utime(root / "a.py", (1, 1))
    package.write_zip(tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            file.name: file.path.read_bytes() for file in package.files
        }


def test_a_directory_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no directory; expected one with your code"):
        collect(CodeSettings(directory=str(tmp_path / "nowhere")), tmp_path / JOB)


@pytest.mark.parametrize("change", [lambda path: path.write_text("other"), Path.unlink])
def test_what_is_sent_is_what_the_digest_is_of(tmp_path, change):
    package = collect(
        CodeSettings(directory=str(tree(tmp_path / "code", {"a.py": "x"}))), tmp_path / "code" / JOB
    ).package
    assert package.digest
    change(tmp_path / "code/a.py")
    for send in (package.copy_to, package.write_zip):
        with pytest.raises(UserError, match=r"a\.py: was changed while it was being sent"):
            send(tmp_path / "there")
