"""The Azure server of the tests: Azurite, Microsoft's own, on 127.0.0.1, with its objects in a folder."""

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time

import azure.core.exceptions
import azure.storage.blob

from s3 import free_port

CONTAINER, ACCOUNT, KEY = "fleet", "dex", base64.b64encode(b"dex-test-key").decode()
FOLDER = os.path.join(sys.prefix, "azurite")


def install():
    """Whether there is an Azurite, by now."""
    if not os.path.exists(FOLDER):
        if shutil.which("npm") is None:
            return False
        new = FOLDER + ".new"
        done = subprocess.run(["npm", "install", "--silent", "--no-save", "--prefix", new, "azurite@3"], capture_output=True)
        if done.returncode != 0:
            return False
        os.rename(new, FOLDER)
    return True


class Server:
    """A server with one container."""

    def __init__(self, folder):
        self.port = free_port()
        command = [os.path.join(FOLDER, "node_modules", ".bin", "azurite-blob"), "--silent", "--disableTelemetry",
                   "--skipApiVersionCheck", "--location", str(folder), "--blobPort", str(self.port)]
        environment = os.environ | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                break
            time.sleep(0.05)
        address = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        service = azure.storage.blob.BlobServiceClient(address, credential={"account_name": ACCOUNT, "account_key": KEY})
        self.container = service.get_container_client(CONTAINER)
        with contextlib.suppress(azure.core.exceptions.ResourceExistsError):
            self.container.create_container()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def url(self, prefix):
        return f"az://{CONTAINER}/{prefix}"

    def variables(self, port=None, key=KEY):
        """What of the environment the program needs to reach it."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": key, "AZURE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port or self.port}/{ACCOUNT}", "PATH": os.environ["PATH"]}

    def keys(self, prefix):
        return list(self.container.list_blob_names(name_starts_with=prefix))

    def body(self, key):
        return self.container.download_blob(key).readall()

    def put(self, key, body):
        self.container.upload_blob(key, body, overwrite=True)
