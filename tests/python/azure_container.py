"""Create a container: azure_container.py ENDPOINT ACCOUNT KEY NAME, signed as Azure wants it."""

import base64
import hashlib
import hmac
import sys
import urllib.request
from email.utils import formatdate

endpoint, account, key, name = sys.argv[1:]
date, version = formatdate(usegmt=True), "2021-08-06"
path = urllib.request.urlparse(endpoint).path + f"/{name}"
text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}{path}\nrestype:container"
signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", data=b"")
request.add_header("x-ms-date", date)
request.add_header("x-ms-version", version)
request.add_header("Authorization", f"SharedKey {account}:{signature}")
# urllib would add a type, which would have to be signed
request.add_header("Content-Type", "")
request.add_header("Content-Length", "0")
with urllib.request.urlopen(request) as answer:
    assert answer.status == 201, answer.status
