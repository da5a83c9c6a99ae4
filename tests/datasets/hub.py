"""A Hub on this machine: as much of the Hugging Face server's protocol as datasets are published and fetched by.

The real clients (`huggingface_hub`, the `minari` command, this package's commands) talk to it over HTTP when
HF_ENDPOINT names it. Every commit keeps its whole file list, so that revisions, tags and the check of the parent
commit are those of a repository. Faults are switched on by tests: wrong bytes, and a commit that arrives between
another's reading and writing.

Not the Hub: every file travels in its commit, as small ones do there (no LFS, no Xet: clients need
HF_HUB_DISABLE_XET=1); no ranges, no other hosts, no rate limits.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

ORG = "medgym-test"
TOKEN = "hf_writer"
READER = "hf_reader"


@dataclass(frozen=True)
class Blob:
    """Content of a file."""

    data: bytes

    @property
    def oid(self):
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Repository:
    """Commits (newest last) of one dataset repository, and its tags."""

    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self):
        return self.commits[-1][0]

    @property
    def files(self):
        return self.commits[-1][2]

    def at(self, revision):
        wanted = self.head if revision in ("main", "refs/heads/main") else self.tags.get(revision, revision)
        return next(((sha, files) for sha, _, files in self.commits if sha == wanted), None)

    def commit(self, title, files):
        content = {path: blob.oid for path, blob in files.items()}
        parent = self.head if self.commits else ""
        sha = hashlib.sha1(json.dumps([parent, title, content], sort_keys=True).encode()).hexdigest()
        self.commits.append((sha, title, files))
        return sha


class Request(NamedTuple):
    """A request that was answered."""

    method: str
    path: str
    status: int


class Hub:
    """State of the server. Tests read `repositories` and `log`, and set the faults.

    Attributes:
        writers: Token -> organisations it may write to.
        wrong: Name ending -> how many GETs of such a file answer with right sized, wrong bytes.
        before_commit: Called once, after the client has read the head and before its commit is taken.
        log: Every request.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.writers: dict[str, set[str]] = {TOKEN: {ORG}, READER: set()}
        self.wrong: dict[str, int] = {}
        self.before_commit: Callable[[], None] | None = None
        self.log: list[Request] = []
        self.lock = threading.RLock()
        self.url = ""

    def environment(self, token=TOKEN):
        """Variables that send a client here."""
        here = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": token or ""}
        return here | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def adopt(self, other):
        """Hold what another holds, as if it had been sent here too; what happens here stays here."""
        self.repositories = {
            name: Repository(list(repository.commits), dict(repository.tags))
            for name, repository in other.repositories.items()
        }

    def gets(self, ending):
        """The GETs of files whose path ends so."""
        return [r for r in self.log if r.method == "GET" and "/resolve/" in r.path and r.path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        """Nothing on standard error."""

    def _answer(self, status, body=b"", headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.hub.log.append(Request(self.command, self.path, status))
        self.send_response(status)
        sent = {"Content-Length": str(len(data))} | (headers or {})
        if not isinstance(body, bytes):
            sent["Content-Type"] = "application/json"
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status, code, message):
        self._answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _handle(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if self.token and self.token not in self.hub.writers:
            return self._error(401, "", "Invalid credentials in Authorization header")
        for methods, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, unquote(parts.path))
            if match and self.command in methods:
                with self.hub.lock if action is not _Handler.commit else threading.Lock():
                    return action(self, *match.groups())
        return self._error(404, "", f"no such address: {self.command} {parts.path}")

    do_GET = do_HEAD = do_POST = _handle  # noqa: N815 - names of the standard library

    def _repository(self, name):
        found = self.hub.repositories.get(name)
        if found is None:
            self._error(404, "RepoNotFound", f"Repository {name} not found")
        return found

    def _may_write(self, name):
        owner = name.partition("/")[0]
        if owner in self.hub.writers.get(self.token, ()):
            return True
        message = f"You don't have the rights to write under the namespace {owner!r}"
        self._error(403 if self.token else 401, "", message if self.token else "Invalid username or password.")
        return False

    def whoami(self):
        if not self.token:
            return self._error(401, "", "Invalid username or password.")
        orgs = [{"name": name, "type": "org"} for name in sorted(self.hub.writers[self.token])]
        return self._answer(200, {"type": "user", "name": "tester", "orgs": orgs, "auth": {"accessToken": {}}})

    def create(self):
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if not self._may_write(name):
            return None
        about = {"url": f"{self.hub.url}/datasets/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            return self._answer(409, about | {"error": "You already created this dataset repo"})
        self.hub.repositories[name] = made = Repository()
        made.commit("initial commit", {".gitattributes": Blob(b"*.hdf5 filter=lfs diff=lfs merge=lfs -text\n")})
        return self._answer(200, about)

    def check_card(self):
        """Front matter is what the card says it is: a README that does not open with it is refused."""
        text = json.loads(self.body)["content"]
        problems = [] if re.match(r"---\n.*?\n---\n", text, re.DOTALL) else [{"message": "no front matter"}]
        self._answer(400 if problems else 200, {"errors": problems, "warnings": []})

    def preupload(self, name, revision):
        if self._repository(name) is None or not self._may_write(name):
            return
        files = [
            {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(self.body)["files"]
        ]
        self._answer(200, {"files": files, "commitOid": self.hub.repositories[name].head})

    def commit(self, name, revision):
        if self._repository(name) is None or not self._may_write(name):
            return None
        hook, self.hub.before_commit = self.hub.before_commit, None
        if hook is not None:
            hook()
        with self.hub.lock:
            repository = self.hub.repositories[name]
            files, title = dict(repository.files), ""
            for line in self.body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "header":
                    title = value["summary"]
                    if value.get("parentCommit") not in (None, repository.head):
                        return self._error(412, "", "The expected parent commit is not the head: please retry")
                elif entry["key"] == "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]))
                else:
                    return self._error(400, "", f"unknown entry {entry['key']}")
            sha = repository.commit(title, files)
        url = f"{self.hub.url}/datasets/{name}/commit/{sha}"
        return self._answer(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def tag(self, name, revision):
        repository = self._repository(name)
        if repository is None or not self._may_write(name):
            return None
        found, wanted = repository.at(revision), json.loads(self.body)["tag"]
        if found is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if wanted in repository.tags:
            return self._error(409, "", f"Tag reference exists already: {wanted}")
        repository.tags[wanted] = found[0]
        return self._answer(200, {})

    def refs(self, name):
        repository = self._repository(name)
        if repository is not None:
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
            tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": s} for t, s in repository.tags.items()]
            self._answer(200, {"branches": [branch], "converts": [], "tags": tags})

    def _at(self, name, revision):
        repository = self._repository(name)
        if repository is None:
            return None
        found = repository.at(revision)
        if found is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _about(self, name, sha, files):
        about = {"_id": name, "id": name, "author": name.partition("/")[0], "sha": sha, "tags": []}
        about |= {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        about |= {"siblings": [{"rfilename": path} for path in sorted(files)]}
        return about | {"lastModified": "2025-01-01T00:00:00.000Z"}

    def info(self, name, revision=None):
        if found := self._at(name, revision or "main"):
            self._answer(200, self._about(name, *found))

    def listing(self):
        author, words = self.query.get("author", ""), self.query.get("search", "")
        found = [name for name in sorted(self.hub.repositories) if name.startswith(author) and words in name]
        self._answer(200, [self._about(n, self.hub.repositories[n].head, {}) for n in found])

    def tree(self, name, revision, below=None):
        if (found := self._at(name, revision)) is None:
            return None
        entries = []
        for path, blob in sorted(found[1].items()):
            if below and not path.startswith(f"{below}/"):
                continue
            entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
            entries.append(entry)
        if below and not entries:
            return self._error(404, "EntryNotFound", f"{below} does not exist")
        return self._answer(200, entries)

    def resolve(self, name, revision, path):
        if (found := self._at(name, revision)) is None:
            return None
        sha, files = found
        if path not in files:
            message = f"Entry not found: {path}"
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": message, "X-Repo-Commit": sha}
            return self._answer(404, {"error": message}, headers)
        data, headers = files[path].data, {"X-Repo-Commit": sha, "ETag": f'"{files[path].oid}"'}
        wrong = next((end for end, times in self.hub.wrong.items() if times and path.endswith(end)), None)
        if self.command == "GET" and wrong is not None:
            self.hub.wrong[wrong] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        return self._answer(200, data, headers)


_NAME, _REV = r"([^/]+/[^/]+)", r"([^/]+|refs/heads/[^/]+)"
_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("GET",), r"/api/whoami-v2", _Handler.whoami),
    (("POST",), r"/api/repos/create", _Handler.create),
    (("POST",), r"/api/validate-yaml", _Handler.check_card),
    (("POST",), rf"/api/datasets/{_NAME}/preupload/{_REV}", _Handler.preupload),
    (("POST",), rf"/api/datasets/{_NAME}/commit/{_REV}", _Handler.commit),
    (("POST",), rf"/api/datasets/{_NAME}/tag/{_REV}", _Handler.tag),
    (("GET",), rf"/api/datasets/{_NAME}/refs", _Handler.refs),
    (("GET",), rf"/api/datasets/{_NAME}/tree/{_REV}(?:/(.+))?", _Handler.tree),
    (("GET",), rf"/api/datasets/{_NAME}/revision/{_REV}", _Handler.info),
    (("GET",), rf"/api/datasets/{_NAME}", _Handler.info),
    (("GET",), r"/api/datasets", _Handler.listing),
    (("GET", "HEAD"), rf"/datasets/{_NAME}/resolve/{_REV}/(.+)", _Handler.resolve),
]
_COUNTER = itertools.count()


@contextmanager
def local_hub():
    """A server on a free port of 127.0.0.1 for the time of the block."""
    hub = Hub()
    handler = type(f"Handler{next(_COUNTER)}", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
