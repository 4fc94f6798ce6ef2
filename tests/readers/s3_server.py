"""An S3 server for the tests: MiniStack's S3 alone, on 127.0.0.1, with its objects in a folder.

    python s3_server.py PORT FOLDER

MiniStack is what PyPI has that both honours conditional writes, atomically, and keeps its objects over a SIGKILL. It
writes an object's file and its description one after the other: where it was killed between the two, the request was
never answered, and before the next start the description is made to fit. There are credentials that are good, some
that are good for S3_TEMP_SECONDS from the start on, and some that have expired; signatures are checked.
"""

import hashlib
import json
import os
import sys
import time

GOOD = {"AWS_ACCESS_KEY_ID": "AKIADEXTESTKEY000001", "AWS_SECRET_ACCESS_KEY": "dex-test-secret"}
GONE = {
    "AWS_ACCESS_KEY_ID": "ASIADEXTESTGONE00001",
    "AWS_SECRET_ACCESS_KEY": "dex-gone-secret",
    "AWS_SESSION_TOKEN": "dex-gone-token",
}
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


def mend(root):
    """Makes each object's description fit its bytes."""
    for folder, _, names in os.walk(root):
        for path in (os.path.join(folder, name) for name in names):
            if path.endswith(".tmp"):
                os.unlink(path)
            elif not path.endswith(".meta.json") and os.path.exists(f"{path}.meta.json"):
                mend_one(path, f"{path}.meta.json")


def mend_one(path, side):
    with open(side, encoding="utf-8") as file:
        meta = json.load(file)
    with open(path, "rb") as file:
        body = file.read()
    digest = hashlib.md5(body).hexdigest()
    if len(body) != meta.get("size") or digest != str(meta.get("etag", "")).strip('"'):
        meta.update(etag=f'"{digest}"', size=len(body), checksums={})
        with open(f"{side}.tmp", "w", encoding="utf-8") as file:
            json.dump(meta, file)
        os.replace(f"{side}.tmp", side)


def main(port, folder):
    os.makedirs(folder, exist_ok=True)
    mend(folder)
    # What is in the environment would be the root key, whose signature nobody checks.
    for name in GONE:
        os.environ.pop(name, None)
    os.environ.update(
        S3_PERSIST="1", S3_DATA_DIR=folder, GATEWAY_PORT=port, BIND_HOST="127.0.0.1", SERVICES="s3,sts,iam",
        AUTH="true", LOG_LEVEL="ERROR")
    sys.argv[1:] = []

    from ministack.app import main as serve
    from ministack.services import iam, sts

    iam._create_user({"UserName": ["dex"]})
    iam._put_user_policy({"UserName": ["dex"], "PolicyName": ["all"], "PolicyDocument": [json.dumps(POLICY)]})
    iam._access_keys[GOOD["AWS_ACCESS_KEY_ID"]] = {
        "UserName": "dex", "AccessKeyId": GOOD["AWS_ACCESS_KEY_ID"], "SecretAccessKey": GOOD["AWS_SECRET_ACCESS_KEY"],
        "Status": "Active", "CreateDate": "2026-01-01T00:00:00Z"}
    sts._sessions[GONE["AWS_ACCESS_KEY_ID"]] = {
        "Arn": "arn:aws:iam::000000000000:user/dex", "UserId": "AIDADEX", "PrincipalName": "dex",
        "PrincipalType": "User", "AccountId": "000000000000", "SecretAccessKey": GONE["AWS_SECRET_ACCESS_KEY"],
        "SessionToken": GONE["AWS_SESSION_TOKEN"], "IssuedAt": time.time() - 120, "Expiration": time.time() - 60}
    serve()


if __name__ == "__main__":
    main(sys.argv[1], os.path.abspath(sys.argv[2]))
