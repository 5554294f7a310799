"""What is pushed to the hub: its own client against so much of its protocol as a commit needs."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from pyro_vae import guides, likelihoods, load, models

WITH = {"reason": "pip install 'pyro_vae[hub]'"}
TOKEN = "Bearer hf_secret"


class Hub(BaseHTTPRequestHandler):
    """Commits of small files, which travel in them, and of large ones, which go to storage first.

    Which are large is told by the server, as by the hub's ``.gitattributes``; these go by the
    protocol of git's large file storage, in one part each.
    """

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        base = f"http://{self.headers['Host']}"
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            answer = {"url": f"{base}/me/toys", "id": "me/toys"}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif self.path.endswith("/preupload/main"):
            told = {"shouldIgnore": False, "oid": None}
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if path.endswith(self.server.large) else "regular" for path in paths]
            files = [
                {"path": p, "uploadMode": m, **told} for p, m in zip(paths, modes, strict=True)
            ]
            answer = {"files": files}
        elif self.path == "/me/toys.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            for told in objects:
                ways = {"upload": "storage", "verify": "verify"}
                told["actions"] = {
                    way: {"href": f"{base}/{place}/{told['oid']}"} for way, place in ways.items()
                }
            answer = {"transfer": "basic", "objects": objects}
        elif self.path.startswith("/verify/"):
            told = json.loads(body)
            assert len(self.server.stored[told["oid"]]) == told["size"]
            answer = {}
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.stored[value["oid"]]
                elif line["key"] == "header":
                    self.server.messages.append(value["summary"])
            url = f"{base}/me/toys/commit/" + "0" * 40
            answer = {"commitUrl": url, "commitOid": "0" * 40, "success": True}
        else:
            self.send_error(404)
            return
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.removeprefix("/storage/")
        if hashlib.sha256(content).hexdigest() != oid:
            self.send_error(400)
            return
        self.server.stored[oid] = content
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.server.seen.append((self.path, None))
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.seen, server.created, server.messages = [], [], []
        server.files, server.stored, server.large = {}, {}, ()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# Of the client, which sends a file as its own client of HTTP no longer likes
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("large", [(), (".safetensors",)], ids=["small", "large"])
def test_what_is_pushed_to_the_hub_is_what_is_written(hub, tmp_path, monkeypatch, large):
    pytest.importorskip("safetensors.torch", **WITH)
    client = pytest.importorskip("huggingface_hub", **WITH)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Its other storage needs a service of its own, and a client that is not written in Python
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    hub.large = large
    torch.manual_seed(0)
    vae = models.VAE((6,), (3, 2), likelihood=likelihoods.Gaussian("learned"), hidden=(8,))
    guide = guides.BottomUp(vae)
    api = client.HfApi(endpoint=f"http://127.0.0.1:{hub.server_port}", token="hf_secret")
    url = guide.push_to_hub("me/toys", api=api, private=True, message="First", licence="mit")
    assert url.endswith("/me/toys/commit/" + "0" * 40)
    (created,) = hub.created
    assert (created["name"], created["visibility"]) == ("toys", "private")
    assert {token for path, token in hub.seen if "commit" in path} == {TOKEN}
    assert hub.messages == ["First"]
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    assert [*hub.stored.values()] == [hub.files["model.safetensors"]] * len(large)
    assert 'snapshot_download("me/toys")' in hub.files["README.md"].decode()
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    again = load(tmp_path)
    for one, other in [(guide, again), (vae, again.model)]:
        one, other = one.state_dict(), other.state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
