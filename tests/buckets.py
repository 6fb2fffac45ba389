"""Object stores in memory, for tests: what fsspec sees, and what TensorStore sees over HTTP."""

import contextlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Objects in memory, with no times and no rename, as an object store has them."""

    protocol = ("s3", "gs", "gcs")
    store: dict = {}  # noqa: RUF012  (the class is the bucket)
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).split("://")[-1].strip("/")

    def glob(self, path, **options):
        return [found.lstrip("/") for found in super().glob(path, **options)]

    def mv(self, *args, **options):
        raise NotImplementedError("an object store has no rename")


def make(protocol: str, monkeypatch) -> str:
    """The name of an empty remote folder, for as long as a test runs."""
    for name in Bucket.protocol:
        fsspec.register_implementation(name, Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    return f"{protocol}://bucket"


@contextlib.contextmanager
def serving(objects: fsspec.AbstractFileSystem) -> Iterator[str]:
    """The address of a server of Cloud Storage's JSON interface over the same objects."""
    generations: dict[str, int] = {}
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            bucket, name, query = self.asked()
            if not name:
                return self.answer(200, listing(bucket, query))
            with lock:
                if not objects.isfile(f"{bucket}/{name}"):
                    return self.answer(404)
                body = objects.cat_file(f"{bucket}/{name}")
                generation = generations.get(f"{bucket}/{name}", 1)
            if query.get("ifGenerationNotMatch") == str(generation):
                return self.answer(304)
            headers = {"x-goog-generation": str(generation)}
            if asked := self.headers.get("Range"):
                first, last = asked.removeprefix("bytes=").split("-")
                start = int(first) if first else len(body) - int(last)
                end = int(last) + 1 if first and last else len(body)
                found = f"bytes {start}-{min(end, len(body)) - 1}/{len(body)}"
                headers["Content-Range"] = found
                return self.answer(206, body[start:end], headers)
            return self.answer(200, body, headers)

        def do_POST(self):
            bucket, name, query = self.asked()
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                path = f"{bucket}/{name}"
                before = generations.get(path, 1) if objects.isfile(path) else 0
                if query.get("ifGenerationMatch", str(before)) != str(before):
                    return self.answer(412)
                objects.pipe_file(path, body)
                generations[path] = generations.get(path, 0) + 1
                return self.answer(200, described(bucket, name))

        def do_DELETE(self):
            bucket, name, _ = self.asked()
            with lock:
                found = objects.isfile(f"{bucket}/{name}")
                if found:
                    objects.rm_file(f"{bucket}/{name}")
            self.answer(204 if found else 404)

        def asked(self):
            """Bucket, object and query: /storage/v1/b/BUCKET/o/OBJECT, or ?name=OBJECT."""
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            bucket, _, name = url.path.split("/b/")[1].partition("/o")
            name = urllib.parse.unquote(name.strip("/")) or query.get("name", "")
            return bucket, name, query

        def answer(self, status, body=b"", headers=None):
            self.send_response(status)
            for header, value in (headers or {}).items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    def described(bucket, name):
        generation = generations.get(f"{bucket}/{name}", 1)
        fields = {"name": name, "generation": str(generation)}
        return json.dumps({**fields, "size": str(objects.size(f"{bucket}/{name}"))}).encode()

    def listing(bucket, query):
        with lock:
            paths = [path.strip("/").partition("/")[2] for path in objects.find(bucket)]
            names = sorted(name for name in paths if name.startswith(query.get("prefix", "")))
            first, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
            return b'{"items": [%s]}' % b",".join(
                described(bucket, name) for name in names if first <= name < end
            )

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
