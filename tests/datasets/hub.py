"""A Hub on this machine: as much of the Hugging Face server's protocol as datasets are published and fetched by.

The real clients (`huggingface_hub`, the `minari` command, this package's commands) talk to it over HTTP when
HF_ENDPOINT names it. Every commit keeps its whole file list, so that revisions, tags and the check of the parent
commit are those of a repository. Faults are switched on by tests: wrong bytes, and a commit that arrives between
another's reading and writing.

Not the Hub: every file travels in its commit, as small ones do there (no LFS, no Xet: clients need
HF_HUB_DISABLE_XET=1); no ranges, no other hosts, no rate limits.
"""

import base64
import copy
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ORG = "medgym-test"
TOKEN = "hf_writer"
READER = "hf_reader"


def blob_id(data):
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """Commits (newest last) of one dataset repository, each its hash and all its files, and its tags."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self):
        return self.commits[-1][0]

    @property
    def files(self):
        return self.commits[-1][1]

    def at(self, revision):
        wanted = self.head if revision in ("main", "refs/heads/main") else self.tags.get(revision, revision)
        return next(((sha, files) for sha, files in self.commits if sha == wanted), None)

    def commit(self, title, files):
        content = [title, len(self.commits), {path: blob_id(data) for path, data in files.items()}]
        sha = hashlib.sha1(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.commits.append((sha, files))
        return sha


class Request(NamedTuple):
    """A request that was answered."""

    method: str
    path: str
    status: int


@dataclass
class Hub:
    """State of the server.

    Attributes:
        repositories: By name.
        writers: Token -> organisations it may write to.
        wrong: Name ending -> how many GETs of such a file answer with right sized, wrong bytes.
        before_commit: Called once, after the client has read the head and before its commit is taken.
        log: Every request.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    writers: dict[str, set[str]] = field(default_factory=lambda: {TOKEN: {ORG}, READER: set()})
    wrong: dict[str, int] = field(default_factory=dict)
    before_commit: Callable[[], None] | None = None
    log: list[Request] = field(default_factory=list)
    url: str = ""

    def environment(self, token=TOKEN):
        """Variables that send a client here."""
        here = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": token or ""}
        return here | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def adopt(self, other):
        """Hold what another holds, as if it had been sent here too; what happens here stays here."""
        self.repositories = copy.deepcopy(other.repositories)

    def gets(self, ending):
        """The GETs of files whose path ends so."""
        return [r for r in self.log if r.method == "GET" and "/resolve/" in r.path and r.path.endswith(ending)]


class RefusedError(Exception):
    """Status, code of the Hub, message."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    lock: threading.RLock

    def log_message(self, *_):
        """Nothing on standard error."""

    def _answer(self, status, body, headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.hub.log.append(Request(self.command, self.path, status))
        self.send_response(status)
        kind = {} if isinstance(body, bytes) else {"Content-Type": "application/json"}
        for name, value in ({"Content-Length": str(len(data))} | kind | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _handle(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        self.status, self.sent = 200, {}
        path = unquote(urlsplit(self.path).path)
        try:
            if self.token and self.token not in self.hub.writers:
                raise RefusedError(401, "", "Invalid credentials in Authorization header")
            for pattern, action in _ROUTES:
                if match := re.fullmatch(pattern, path):
                    # A commit takes the lock itself: what comes before it may be another client's.
                    with nullcontext() if action is _Handler.commit else self.lock:
                        body = action(self, *match.groups())
                    return self._answer(self.status, body, self.sent)
            raise RefusedError(404, "", f"no such address: {self.command} {path}")
        except RefusedError as refused:
            status, code, message = refused.args
            return self._answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    do_GET = do_HEAD = do_POST = _handle  # noqa: N815 - names of the standard library

    def _repository(self, name):
        if name not in self.hub.repositories:
            raise RefusedError(404, "RepoNotFound", f"Repository {name} not found")
        return self.hub.repositories[name]

    def _writable(self, name):
        """The repository, if the token may write to it; None if there is none yet."""
        owner = name.partition("/")[0]
        if owner not in self.hub.writers.get(self.token, ()):
            raise RefusedError(403, "", f"no rights under {owner}") if self.token else RefusedError(401, "", "no token")
        return self.hub.repositories.get(name)

    def _at(self, name, revision):
        found = self._repository(name).at(revision)
        if found is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def whoami(self):
        if not self.token:
            raise RefusedError(401, "", "Invalid username or password.")
        orgs = [{"name": name, "type": "org"} for name in sorted(self.hub.writers[self.token])]
        return {"type": "user", "name": "tester", "orgs": orgs, "auth": {"accessToken": {}}}

    def create(self):
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if self._writable(name):
            self.status = 409
        else:
            self.hub.repositories[name] = made = Repository()
            made.commit("initial commit", {".gitattributes": b"*.hdf5 filter=lfs diff=lfs merge=lfs -text\n"})
        return {"url": f"{self.hub.url}/datasets/{name}", "name": name, "id": name}

    def check_card(self):
        """Front matter is what the card says it is: a README that does not open with it is refused."""
        text = json.loads(self.body)["content"]
        problems = [] if re.match(r"---\n.*?\n---\n", text, re.DOTALL) else [{"message": "no front matter"}]
        self.status = 400 if problems else 200
        return {"errors": problems, "warnings": []}

    def preupload(self, name, revision):
        self._writable(name)
        sent = json.loads(self.body)["files"]
        files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in sent]
        return {"files": files, "commitOid": self._repository(name).head}

    def commit(self, name, revision):
        repository = self._writable(name)
        hook, self.hub.before_commit = self.hub.before_commit, None
        if hook is not None:
            hook()
        with self.lock:
            files, title = dict(repository.files), ""
            for entry in map(json.loads, self.body.splitlines()):
                value = entry["value"]
                if entry["key"] == "header":
                    title = value["summary"]
                    if value.get("parentCommit") not in (None, repository.head):
                        raise RefusedError(412, "", "The expected parent commit is not the head: please retry")
                elif entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                else:
                    del files[value["path"]]
            sha = repository.commit(title, files)
        url = f"{self.hub.url}/datasets/{name}/commit/{sha}"
        return {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}

    def tag(self, name, revision):
        wanted = json.loads(self.body)["tag"]
        self._writable(name).tags[wanted] = self._at(name, revision)[0]
        return {}

    def refs(self, name):
        repository = self._repository(name)
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
        tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": s} for t, s in repository.tags.items()]
        return {"branches": [branch], "converts": [], "tags": tags}

    def info(self, name, revision="main"):
        sha, files = self._at(name, revision)
        about = {"_id": name, "id": name, "sha": sha, "tags": [], "downloads": 0, "likes": 0}
        about |= {"private": False, "gated": False, "disabled": False}
        return about | {"siblings": [{"rfilename": path} for path in sorted(files)]}

    def listing(self):
        return [self.info(name) for name in sorted(self.hub.repositories)]

    def tree(self, name, revision):
        files = sorted(self._at(name, revision)[1].items())
        return [{"type": "file", "oid": blob_id(data), "size": len(data), "path": path} for path, data in files]

    def resolve(self, name, revision, path):
        sha, files = self._at(name, revision)
        if path not in files:
            raise RefusedError(404, "EntryNotFound", f"Entry not found: {path}")
        data = files[path]
        self.sent = {"X-Repo-Commit": sha, "ETag": f'"{blob_id(data)}"'}
        wrong = next((end for end, times in self.hub.wrong.items() if times and path.endswith(end)), None)
        if self.command == "GET" and wrong is not None:
            self.hub.wrong[wrong] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        return data


_NAME, _REV = r"([^/]+/[^/]+)", r"([^/]+|refs/heads/[^/]+)"
_ROUTES = [
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.check_card),
    (rf"/api/datasets/{_NAME}/preupload/{_REV}", _Handler.preupload),
    (rf"/api/datasets/{_NAME}/commit/{_REV}", _Handler.commit),
    (rf"/api/datasets/{_NAME}/tag/{_REV}", _Handler.tag),
    (rf"/api/datasets/{_NAME}/refs", _Handler.refs),
    (rf"/api/datasets/{_NAME}/tree/{_REV}", _Handler.tree),
    (rf"/api/datasets/{_NAME}/revision/{_REV}", _Handler.info),
    (rf"/api/datasets/{_NAME}", _Handler.info),
    (r"/api/datasets", _Handler.listing),
    (rf"/datasets/{_NAME}/resolve/{_REV}/(.+)", _Handler.resolve),
]


@contextmanager
def local_hub():
    """A server on a free port of 127.0.0.1 for the time of the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub, "lock": threading.RLock()})
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
