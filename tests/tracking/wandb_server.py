"""A W&B server on loopback, as far as the real client, artifacts and sweep agent need one."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

KEY = "k" * 40
ENTITY, PROJECT = "us", "unclip"
WHERE = {"id": "1", "name": PROJECT, "internalId": "1", "entity": {"id": "1", "name": ENTITY}}


class Server(ThreadingHTTPServer):
    """Keeps what it is told.

    ``runs`` (id -> config, summary, history, exitcode, uses), ``artifacts`` (a list), ``uploads``
    (names of files), ``sweeps`` (id -> configuration), ``operations`` (names). An agent is given
    ``trials`` (dicts of parameters), one after the other.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.operations, self.artifacts, self.uploads = [], [], []
        self.runs, self.sweeps = {}, {}
        self.trials = []

    def environment(self):
        """What sends a client here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def received(self, run, name):
        """(step, value) of each row of a run's history that has ``name``."""
        rows = [row for row in self.runs[run]["history"] if name in row]
        return [(row["trainer/global_step"], row[name]) for row in rows]

    def stop(self):
        """Go away, while clients are about."""
        self.shutdown()
        self.server_close()

    def answer(self, operation, given):
        self.operations.append(operation)
        return getattr(self, operation, lambda **_: None)(**given)

    def Viewer(self, **_):
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}"}}

    def UpsertBucket(self, name, config=None, summaryMetrics=None, **given):
        fresh = name not in self.runs
        run = self.runs.setdefault(name, {"config": {}, "summary": {}, "history": [], "uses": []})
        run["config"] |= json.loads(config or "{}")
        run["summary"] |= json.loads(summaryMetrics or "{}")
        run |= {key: value for key, value in given.items() if value is not None}
        bucket = {"id": name, "name": name, "displayName": run.get("displayName"), "project": WHERE}
        bucket["historyLineCount"] = len(run["history"])
        return {"upsertBucket": {"bucket": bucket, "inserted": fresh}}

    def RunResumeStatus(self, name, **_):
        run = self.runs.get(name)
        bucket = run and {
            "id": name,
            "name": name,
            "summaryMetrics": json.dumps(run["summary"]),
            "logLineCount": 0,
            "historyLineCount": len(run["history"]),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(run["history"][-1])] if run["history"] else []),
            "eventsTail": "[]",
            "config": json.dumps(run["config"]),
            "wandbConfig": '{"t": 1}',
        }
        return {"model": {**WHERE, "bucket": bucket}}

    def CreateRunFiles(self, run, files, **_):
        urls = [{"name": name, "uploadUrl": f"{self.url}/put/{name}"} for name in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": urls}}

    def CreateArtifact(self, input):
        made = {"id": str(len(self.artifacts)), "state": "PENDING", "files": [], **input}
        self.artifacts.append(made)
        return {"createArtifact": {"artifact": {"id": made["id"], "state": "PENDING"}}}

    def CreateArtifactManifest(self, artifactID, **_):
        file = {"id": "1", "uploadUrl": f"{self.url}/put/manifest", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": artifactID, "file": file}}}

    def CreateArtifactFiles(self, input):
        edges = []
        for spec in input["artifactFiles"]:
            self.artifacts[int(spec["artifactID"])]["files"].append(spec["name"])
            url = f"{self.url}/put/{spec['name']}"
            node = {"storagePath": spec["name"], "uploadUrl": url, "uploadHeaders": []}
            edges.append({"node": {**node, "artifact": {"id": spec["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def CommitArtifact(self, artifactID):
        made = self.artifacts[int(artifactID)]
        made["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifactID, "digest": made["digest"]}}}

    def ArtifactMembershipByName(self, name, **_):
        collection, alias = name.split(":")
        found = [
            made
            for made in self.artifacts
            if made["artifactCollectionName"] == collection
            and alias in [each["alias"] for each in made["aliases"]]
        ]
        if not found:
            return {"project": {"artifactCollectionMembership": None}}
        sequence = {"__typename": "ArtifactSequence", "name": collection, "project": WHERE}
        artifact = {
            "id": found[-1]["id"],
            "artifactSequence": sequence,
            "versionIndex": 0,
            "artifactType": {"name": found[-1]["artifactTypeName"]},
            "description": None,
            "metadata": "{}",
            "ttlDurationSeconds": 0,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": 1,
            "digest": found[-1]["digest"],
            "commitHash": None,
            "fileCount": 3,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
        }
        member = {"id": "1", "versionIndex": 0, "createdAt": artifact["createdAt"], "aliases": []}
        member |= {"artifactCollection": sequence, "artifact": artifact}
        return {"project": {"artifactCollectionMembership": member}}

    def UseArtifact(self, runName, artifactID, **_):
        self.runs[runName]["uses"].append(self.artifacts[int(artifactID)])
        return {"useArtifact": {"artifact": {"id": artifactID}}}

    def UpsertSweep(self, config, **_):
        config = yaml.safe_load(config)
        if config["method"] not in ("grid", "random", "bayes"):
            return None
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = config
        sweep = {"name": name, "project": WHERE}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def SweepWithRuns(self, sweep, **_):
        config = yaml.safe_dump(self.sweeps[sweep])
        return {"project": {"sweep": {"name": sweep, "config": config, "runs": {"edges": []}}}}

    def CreateAgent(self, **_):
        return {"createAgent": {"agent": {"id": "agent"}}}

    def Heartbeat(self, runState, **_):
        commands = []
        if not json.loads(runState):
            commands = [{"type": "exit"}]
            if self.trials:
                values = {key: {"value": value} for key, value in self.trials.pop(0).items()}
                name = f"trial{len(self.trials)}"
                commands = [{"type": "run", "run_id": name, "args": values, "program": None}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}

    def streamed(self, run, told):
        """A piece of a run's files, as the client sends them while it runs."""
        for name, part in (told.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                history = self.runs[run]["history"]
                history[part["offset"] :] = lines
            elif name == "wandb-summary.json":
                self.runs[run]["summary"] |= lines[-1]
        self.runs[run] |= {key: told[key] for key in ("exitcode", "preempting") if key in told}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_POST(self):
        body = self._body()
        if self.path.endswith("/file_stream"):
            self.server.streamed(self.path.split("/")[4], json.loads(body))
        if self.path != "/graphql":
            return self._reply(200, {})
        told = json.loads(body)
        if KEY not in self._key():
            return self._reply(401, {"errors": [{"message": "invalid API key"}]})
        operation = re.search(r"(?:query|mutation)\s+(\w+)", told["query"]).group(1)
        found = self.server.answer(operation, told.get("variables") or {})
        unknown = {"errors": [{"message": f"{operation}: not here"}]}
        self._reply(200, unknown if found is None else {"data": found})

    def do_PUT(self):
        self._body()
        self.server.uploads.append(self.path.removeprefix("/put/"))
        self._reply(200, {})

    def do_GET(self):
        self._reply(404, {})

    def _key(self):
        _, _, word = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(word + "==").decode(errors="ignore")

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
