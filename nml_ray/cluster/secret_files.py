"""Files that look like secrets: code is sent to other machines and kept there, so these are never part of it."""

import fnmatch
import json
import re
from collections.abc import Sequence
from pathlib import Path

_HEAD = 4096  # bytes that are looked at
_KEY = re.compile(rb"\s*-----BEGIN [A-Z0-9 ]*PRIVATE KEY")
_TOKEN = re.compile(r"(^|[._-])token($|[._-])", re.I)
_CODE = {
    *(".py", ".pyi", ".pyx", ".ipynb", ".md", ".rst", ".html", ".css", ".js", ".ts", ".c", ".h", ".cc", ".cpp", ".cu"),
    *(".rs", ".go", ".java", ".sh"),
}
_PLACES = {".aws", ".azure", ".gcloud", ".gnupg", ".kube", ".ssh"}
_EXAMPLES = (".example", ".sample", ".template", ".dist")
_NAMES = {
    "a file of environment variables": (".env", ".env.*", "*.env", ".envrc"),
    "a private key": (
        *("id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"),
        *("*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.keystore"),
    ),
    "a file of passwords": (".netrc", "_netrc", ".pgpass", ".pypirc", ".htpasswd", "*.kdbx", ".my.cnf"),
    "a file of credentials": (
        *("credentials", "credentials.*", ".credentials", ".git-credentials", "*credentials.json", "kubeconfig"),
        *("client_secret*.json", "service_account*.json", "secrets.yaml", "secrets.yml", "secrets.json"),
        *("secrets.toml", "secrets.txt", "secret.*"),
    ),
}


def secret(parts: Sequence[str], path: Path) -> str:
    """What a file looks like, "a private key"; "" where it does not look like a secret.

    Args:
        parts: of its path below the directory that is sent.
        path: where it lies.
    """
    return _by_name(parts) or _by_content(path)


def _by_name(parts: Sequence[str]) -> str:
    name = parts[-1].lower()
    if place := next((part for part in parts[:-1] if part.lower() in _PLACES), ""):
        return f"one of the credentials in {place}"
    suffix = Path(name).suffix
    if suffix in _CODE or suffix in _EXAMPLES:
        return ""
    for kind, patterns in _NAMES.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return kind
    return "a token" if _TOKEN.search(name) else ""


def _by_content(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if _KEY.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "a private key"
    if head.lstrip().startswith(b"{") and b'"private_key"' in head:
        return "a file of credentials" if _has_key(path) else ""
    return ""


def _has_key(path: Path) -> bool:
    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(data, dict) and "-----BEGIN" in str(data.get("private_key"))
