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
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

ORG, TOKEN, READER = "medgym-test", "hf_writer", "hf_reader"
#: Token -> organisations it may write to.
RIGHTS = {TOKEN: [ORG], READER: []}


@dataclass
class Repository:
    """Commits (newest last) of one dataset repository, each its number and all its files, and its tags."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self):
        return list(self.commits)[-1]

    @property
    def files(self):
        return self.commits[self.head]

    def commit(self, files):
        self.commits[f"{len(self.commits):040x}"] = files


class RefusedError(Exception):
    """Status, code of the Hub, message."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing on standard error."""

    def _handle(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        self.status, self.sent = 200, {}
        try:
            if self.token and self.token not in RIGHTS:
                raise RefusedError(401, "", "Invalid credentials in Authorization header")
            answer = self._answer(unquote(urlsplit(self.path).path).removeprefix("/api").split("/")[1:])
            if answer is None:
                raise RefusedError(404, "", f"no such address: {self.path}")
        except RefusedError as refused:
            self.status, code, message = refused.args
            answer, self.sent = {"error": message}, {"X-Error-Code": code, "X-Error-Message": message}
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.server.log.append((self.command, self.path, self.status))
        self.send_response(self.status)
        for name, value in {"Content-Length": len(data), **self.sent}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = _handle  # noqa: N815 - names of the standard library

    def _check_writer(self, owner):
        if owner not in RIGHTS.get(self.token, ()):
            raise RefusedError(403, "", f"no rights under {owner}") if self.token else RefusedError(401, "", "no token")

    def _answer(self, path):
        """What lies at an address: the bytes of a file, or what becomes JSON."""
        repositories = self.server.repositories
        match path:
            case ["whoami-v2"]:
                if not self.token:
                    raise RefusedError(401, "", "Invalid username or password.")
                return {"type": "user", "name": "tester", "orgs": [{"name": name} for name in RIGHTS[self.token]]}
            case ["validate-yaml"]:
                if not re.match(r"---\n.*?\n---\n", json.loads(self.body)["content"], re.DOTALL):
                    raise RefusedError(400, "", "the card does not open with front matter")
                return {"errors": [], "warnings": []}
            case ["repos", "create"]:
                wanted = json.loads(self.body)
                name = f"{wanted['organization']}/{wanted['name']}"
                self._check_writer(wanted["organization"])
                if name in repositories:
                    self.status = 409
                else:
                    repositories[name] = Repository()
                    repositories[name].commit({".gitattributes": b"*.hdf5 filter=lfs diff=lfs merge=lfs -text\n"})
                return {"url": f"{self.server.url}/datasets/{name}"}
            case ["datasets"]:
                return [self._answer(["datasets", *name.split("/")]) for name in sorted(repositories)]
            case ["datasets", owner, name, *rest]:
                if f"{owner}/{name}" not in repositories:
                    raise RefusedError(404, "RepoNotFound", f"Repository {owner}/{name} not found")
                if self.command == "POST":
                    self._check_writer(owner)
                return self._answer_of(f"{owner}/{name}", repositories[f"{owner}/{name}"], *rest)

    def _answer_of(self, name, repository, action="revision", revision="main", *path):
        sha = repository.head if revision == "main" else revision
        files = repository.commits[sha]
        match action:
            case "revision":
                return {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in sorted(files)]}
            case "refs":
                tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": s} for t, s in repository.tags.items()]
                return {"branches": [], "converts": [], "tags": tags}
            case "tree":
                kind = {"type": "file", "oid": sha}
                return [kind | {"size": len(data), "path": path} for path, data in sorted(files.items())]
            case "preupload":
                sent = json.loads(self.body)["files"]
                return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in sent]}
            case "tag":
                repository.tags[json.loads(self.body)["tag"]] = sha
                return {}
            case "commit":
                return self._commit(name, repository)
            case "resolve":
                return self._file(files, sha, "/".join(path))

    def _commit(self, name, repository):
        hook, self.server.before_commit = self.server.before_commit, None
        if hook is not None:
            hook()
        header, *entries = (json.loads(line)["value"] for line in self.body.splitlines())
        if header.get("parentCommit") not in (None, repository.head):
            raise RefusedError(412, "", "The expected parent commit is not the head: please retry")
        sent = {entry["path"]: base64.b64decode(entry["content"]) for entry in entries}
        repository.commit(repository.files | sent)
        url = f"{self.server.url}/datasets/{name}/commit/{repository.head}"
        return {"commitOid": repository.head, "commitUrl": url}

    def _file(self, files, sha, path):
        if path not in files:
            raise RefusedError(404, "EntryNotFound", f"Entry not found: {path}")
        data = files[path]
        self.sent = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if self.command == "GET" and path.endswith(self.server.wrong):
            self.server.wrong = ()
            return data[:-1] + bytes([data[-1] ^ 1])
        return data


class Hub(ThreadingHTTPServer):
    """A server on a free port of 127.0.0.1.

    Attributes:
        repositories: By name.
        log: Method, path and status of every request.
        wrong: The next GET of a file whose name ends so answers with right sized, wrong bytes.
        before_commit: Called once, after the client has read the head and before its commit is taken.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.log, self.wrong, self.before_commit = {}, [], (), None


@contextmanager
def local_hub():
    """A Hub for the time of the block."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
