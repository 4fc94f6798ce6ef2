"""The S3 server of the tests, and what stands between it and the program: a proxy that counts, and goes wrong."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import botocore.config
import botocore.exceptions

from s3_server import GONE, GOOD

BUCKET = "fleet"
HERE = os.path.dirname(os.path.abspath(__file__))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def variables(port, credentials=GOOD):
    """What of the environment the program needs to reach a server."""
    return credentials | {
        "AWS_ENDPOINT": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "PATH": os.environ["PATH"]}


class Server:
    """A server that may be killed and started again on the same objects."""

    def __init__(self, folder):
        self.folder, self.port, self.process = str(folder), free_port(), None
        self.start()

    def start(self):
        command = [sys.executable, os.path.join(HERE, "s3_server.py"), str(self.port), self.folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                break
            time.sleep(0.05)
        with contextlib.suppress(botocore.exceptions.ClientError):
            self.client().create_bucket(Bucket=BUCKET)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def client(self):
        config = botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3})
        return boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1", config=config,
            aws_access_key_id=GOOD["AWS_ACCESS_KEY_ID"], aws_secret_access_key=GOOD["AWS_SECRET_ACCESS_KEY"])

    def url(self, prefix):
        return f"s3://{BUCKET}/{prefix}"

    def variables(self, port=None):
        return variables(port or self.port)

    def keys(self, prefix):
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def body(self, key):
        return self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def put(self, key, body):
        self.client().put_object(Bucket=BUCKET, Key=key, Body=body)


class Proxy:
    """Passes requests on to a server. `says` may answer one instead (status, body, and headers if any), by its number and
    method, and so may `before`, by method and path; `bends` may change an answer, by method, path, status and body."""

    def __init__(self, server, says=lambda number, method: None, before=lambda method, path: None,
                 bends=lambda method, path, status, body: body):
        proxy = self
        self.requests, self.bytes = 0, 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def pass_on(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests += 1
                said = says(proxy.requests, self.command) or before(self.command, self.path)
                if said:
                    self.answer(said[0], said[2] if len(said) > 2 else {}, said[1])
                    return
                to = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                # The signature covers the name of the host: it stays.
                to.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    to.putheader(name, value)
                to.endheaders(body)
                answer = to.getresponse()
                text = bends(self.command, self.path, answer.status, answer.read())
                proxy.bytes += len(text)
                self.answer(answer.status, dict(answer.getheaders()), text)

            def answer(self, status, headers, text):
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", headers.get("content-length")) if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
