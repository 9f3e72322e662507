"""A small HTTP server with ranges, for tests of remote sources."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves ``files`` (path without the slash -> bytes) and notes what it was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {}
        self.requests = []  # (method, path, range)
        self.failures = 0  # answer so many requests with 503
        self.ranges = True

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def gets(self):
        return [request for request in self.requests if request[0] == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_HEAD(self):
        self._answer(send=False)

    def do_GET(self):
        self._answer(send=True)

    def _answer(self, send):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.command, self.path, wanted))
        name = self.path.strip("/").split("?")[0]
        if server.failures:
            server.failures -= 1
            return self._reply(503, b"", send)
        if self.path.endswith("/"):
            prefix = name + "/" if name else ""
            names = [n for n in server.files if n.startswith(prefix)]
            links = "".join(f'<a href="/{n}">{n}</a>' for n in names)
            return self._reply(200 if names else 404, links.encode(), send)
        if name not in server.files:
            return self._reply(404, b"", send)
        data = server.files[name]
        if wanted and server.ranges:
            first, last = (int(n) for n in re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            if first >= len(data):
                return self._reply(416, b"", send)
            return self._reply(206, data[first : last + 1], send)
        return self._reply(200, data, send)

    def _reply(self, status, data, send):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if send:
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
        server.shutdown()
        thread.join()
        server.server_close()
