"""A small hub on this machine: the parts of the protocol that downloading and pushing a folder use."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Repositories in memory: name to files; a commit is the hash of them all."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.refuses = False
        self.url = ""

    def commit(self, name: str) -> str:
        """Return 40 hex digits that change with any file."""
        files = self.repositories[name]
        return hashlib.sha1(b"".join(k.encode() + files[k] for k in sorted(files))).hexdigest()


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

        def answer(self, code: int, body: bytes, **headers: str) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def answer_json(self, content: Any, code: int = 200, **headers: str) -> None:
            self.answer(code, json.dumps(content).encode(), Content_Type="application/json", **headers)

        def body(self) -> bytes:
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)

        def no_such(self) -> None:
            self.answer_json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if found := re.match(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/?]+)?(?:[?].*)?$", self.path):
                name = found[1]
                if name not in hub.repositories:
                    return self.no_such()
                return self.answer_json({"id": name, "sha": hub.commit(name), "siblings": []})
            if found := re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)$", self.path):
                name, file = found[1], found[2]
                if file not in hub.repositories.get(name, {}):
                    return self.no_such()
                content = hub.repositories[name][file]
                etag = hashlib.sha1(content).hexdigest()
                return self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=hub.commit(name))
            return self.no_such()

        def do_POST(self) -> None:
            body = self.body()
            if hub.refuses:
                return self.answer_json({"error": "You have no right to write here"}, 403)
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.repositories.setdefault(name, {})
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(name)
                return self.answer_json({"url": f"{hub.url}/{name}", "name": name})
            if self.path == "/api/validate-yaml":
                return self.answer_json({"warnings": [], "errors": []})
            if found := re.match(r"/api/models/([^/]+/[^/]+)/preupload/", self.path):
                files = [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                ]
                return self.answer_json({"files": files})
            if found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
                for line in body.splitlines():
                    each = json.loads(line)
                    if each["key"] == "file":
                        content = base64.b64decode(each["value"]["content"])
                        hub.repositories[found[1]][each["value"]["path"]] = content
                sha = hub.commit(found[1])
                return self.answer_json({"commitOid": sha, "commitUrl": f"{hub.url}/{found[1]}/commit/{sha}"})
            return self.no_such()

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yield a hub that answers on a port of this machine."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
