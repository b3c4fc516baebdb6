"""Files that look like secrets: code is sent to other machines and kept there, so these are never part of it."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

_HEAD = 1 << 16  # bytes of a file that are looked at
_BUNDLE = 4 << 20  # bytes of a *.pem that are; those of all authorities together are some 300 kB
_KEY = re.compile(rb"\s*-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File-|AGE-SECRET-KEY-1")
_PUBLIC = re.compile(rb"^-----BEGIN [A-Z0-9 ]*(CERTIFICATE|PUBLIC KEY|CRL|CERTIFICATE REQUEST)-----", re.M)
_CONTENTS = (  # what is in a file that is no code: all of these
    ("a private key", (rb"^-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----\s*$",)),
    ("a file of passwords", (rb"^\s*machine\s+\S+\s+login\s+\S+\s+password\s+\S",)),
    ("a file of credentials", (rb'"private_key"\s*:\s*"-----BEGIN',)),  # of a service account of Google's
    ("a file of credentials", (rb'"refresh_token"\s*:\s*"[^"]{8}', rb'"client_secret"\s*:\s*"[^"]{8}')),
    ("a file of credentials", (rb'"(SecretAccessKey|clientSecret)"\s*:\s*"[^"]{8}',)),  # of AWS, of Azure
    ("a file of credentials", (rb"^\s*aws_secret_access_key\s*=\s*\S{8}",)),
    # of Kubernetes, where the secret is in the file itself, and not told by another program or file
    ("a file of credentials", (rb"^kind: *Config\s*$", rb"^users:", rb"^[\s-]*(token|password|client-key-data): *\S")),
)
_SHAPES = (  # of tokens that say whose they are: how they begin, and how they go on
    *((start, rb"[A-Za-z0-9]{36}") for start in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"npm_")),  # GitHub, npm
    (b"github_pat_", rb"[A-Za-z0-9_]{50}"),
    (b"glpat-", rb"[A-Za-z0-9_-]{20}"),  # GitLab
    (b"hf_", rb"[A-Za-z0-9]{34}(?![A-Za-z0-9])"),  # Hugging Face
    *((start, rb"[A-Za-z0-9_-]{32}") for start in (b"sk-ant-", b"sk-proj-", b"pypi-AgEI")),
    *((start, rb"[0-9]+-[A-Za-z0-9-]{20}") for start in (b"xoxb-", b"xoxp-")),  # Slack
    (b"AKIA", rb"(?![0-9A-Z]{9}EXAMPLE)[0-9A-Z]{16}(?![0-9A-Za-z])"),  # AWS, but for its manual's
)
_TOKENS = [(start, re.compile(rb"(?<![A-Za-z0-9_/+-])" + start + rest)) for start, rest in _SHAPES]
_SUSPECT = re.compile(  # a name that says what may be in it: then the content decides
    r"(^|[._-])(passwords?|passwd|secrets?|(api|access|aws|auth)[._-]?keys?)($|[._-])|^\.?(npmrc|condarc|curlrc|wgetrc)$"
    r"|^pip\.(conf|ini)$"
)
_SAID = (  # a value that is given to a name, is alone in its file, or is part of an address
    re.compile(
        rb"""(?i)^[^#;\n]*?(passw(or)?d|passphrase|secret|token|auth|(api|access|aws)[._-]?key)\w*["']?"""
        rb"""[ \t]*[:=][ \t]*["']?(?![$<{\[*])[^\s"',]{6}""",
        re.M,
    ),
    re.compile(rb"\A\s*(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9_+/=.-]{20,}\s*\Z"),
    re.compile(rb"://[^/\s:@$<{]+:[^/\s@$<{]{3,}@"),
)
_FOUND = [(kind, [re.compile(pattern, re.M) for pattern in patterns]) for kind, patterns in _CONTENTS]
_TOKEN = re.compile(r"(^|[._-])token($|[._-])", re.I)
_CODE = {
    *(".py", ".pyi", ".pyx", ".ipynb", ".md", ".rst", ".html", ".css", ".js", ".ts", ".c", ".h", ".cc", ".cpp", ".cu"),
    *(".rs", ".go", ".java", ".sh"),
}
_PLACES = {".aws", ".azure", ".docker", ".gcloud", ".gnupg", ".kube", ".oci", ".password-store", ".ssh"}
_BACKUP = re.compile(r"(\.(bak|backup|old|orig|save)|~)$")
_PUBLIC_KEY = ".pub"
_EXAMPLES = (".example", ".sample", ".template", ".dist")
_NAMES = {
    "a file of environment variables": (".env", ".env.*", "*.env", "*.env.*", ".envrc", ".renviron"),
    "a private key": (
        *(f"id_{kind}{rest}" for kind in ("rsa", "dsa", "ecdsa", "ed25519") for rest in ("", "[._-]*")),
        *("*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.keystore"),
    ),
    "a file of passwords": (".netrc", "_netrc", ".pgpass", ".pypirc", ".htpasswd", "*.kdbx", ".my.cnf"),
    "a file of credentials": (
        *("credentials", "credentials.*", ".credentials", ".git-credentials", "*credentials.json", "kubeconfig"),
        *("client_secret*.json", "service_account*.json", "secrets.yaml", "secrets.yml", "secrets.json"),
        *("secrets.toml", "secrets.txt", "secret.*", ".boto", ".s3cfg", ".dockercfg", "rclone.conf"),
        *(".databrickscfg", "kaggle.json", "access_tokens.db", "*.tfstate", "*.tfvars"),
    ),
}


def secret(parts: Sequence[str], path: Path) -> str:
    """What a file looks like, "a private key"; "" where it does not look like a secret.

    Args:
        parts: of its path below the directory that is sent.
        path: where it lies.
    """
    return _by_name(parts, path) or _by_content(path, parts[-1].lower())


def _by_name(parts: Sequence[str], path: Path) -> str:
    name = parts[-1].lower()
    if place := next((part for part in parts[:-1] if part.lower() in _PLACES), ""):
        return f"one of the credentials in {place}"
    name = _BACKUP.sub("", name)
    suffix = Path(name).suffix
    if suffix in _CODE or suffix in _EXAMPLES or suffix == _PUBLIC_KEY or (suffix == ".pem" and _is_public(path)):
        return ""
    for kind, patterns in _NAMES.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return kind
    return "a token" if _TOKEN.search(name) else ""


def _by_content(path: Path, name: str) -> str:
    """What the beginning of a file looks like; code may speak of keys, but not begin with one."""
    head = _head(path, _HEAD)
    if _KEY.match(head):
        return "a private key"
    if Path(name).suffix in _CODE or b"\0" in head:
        return ""
    if any(start in head and shape.search(head) for start, shape in _TOKENS):
        return "a token"
    if _SUSPECT.search(name) and any(said.search(head) for said in _SAID):
        return "a file of passwords"
    return next((kind for kind, patterns in _FOUND if all(pattern.search(head) for pattern in patterns)), "")


def _is_public(path: Path) -> bool:
    """Whether a *.pem holds certificates or public keys alone."""
    if path.stat().st_size > _BUNDLE:
        return False
    text = _head(path, _BUNDLE)
    return b"PRIVATE KEY" not in text and _PUBLIC.search(text) is not None


def _head(path: Path, most: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(most).removeprefix(b"\xef\xbb\xbf")
