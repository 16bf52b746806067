"""A Google Cloud Storage server for tests: the XML API as far as clients of it go, in memory.

    gcs_stub.py [--ignore-conditions] [--lose N] [--skew SECONDS]

Prints its port. It can also be a bad server: one that ignores conditions, that loses every Nth object below `shards/`
although it says that it has it, or whose clock is off.
"""

import argparse
import hashlib
import re
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

parser = argparse.ArgumentParser()
parser.add_argument("--ignore-conditions", action="store_true")
parser.add_argument("--lose", type=int, default=0)
parser.add_argument("--skew", type=float, default=0.0)
options = parser.parse_args()

lock = threading.Lock()
objects = {}  # (bucket, key) -> (bytes, etag, generation, seconds)
uploads = {}  # id -> (bucket, key, seconds, {part: bytes})
counter = {"generation": 0, "shards": 0}


def now():
    return time.time() + options.skew


def xml_time(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def store(bucket, key, data):
    counter["generation"] += 1
    if "/shards/" in key:
        counter["shards"] += 1
        if options.lose and counter["shards"] % options.lose == 0:
            return f'"{counter["generation"]}"', counter["generation"]
    etag = '"' + hashlib.md5(data).hexdigest() + '"'
    objects[bucket, key] = (data, etag, counter["generation"], now())
    return etag, counter["generation"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def date_time_string(self, timestamp=None):
        return formatdate(now(), usegmt=True)

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code):
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def asked(self):
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        return bucket, key, query

    def missing(self, bucket):
        """Whether there is no such bucket; then that is the answer."""
        if bucket == "absent":
            self.error(404, "NoSuchBucket")
        return bucket == "absent"

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self):
        (bucket, key, query), data = self.asked(), self.body()
        if bucket == "clock":  # the store's clock goes on by so many seconds
            options.skew += int(key)
            return self.answer(200)
        if self.missing(bucket):
            return
        with lock:
            if "uploadId" in query:
                if query["uploadId"] not in uploads:
                    return self.error(404, "NoSuchUpload")
                uploads[query["uploadId"]][3][int(query["partNumber"])] = data
                return self.answer(200, ETag='"' + hashlib.md5(data).hexdigest() + '"')
            wanted = self.headers.get("x-goog-if-generation-match")
            found = objects.get((bucket, key))
            if wanted is not None and not options.ignore_conditions and int(wanted) != (found[2] if found else 0):
                return self.error(412, "PreconditionFailed")
            etag, generation = store(bucket, key, data)
            self.answer(200, ETag=etag, x_goog_generation=generation)

    def do_POST(self):
        (bucket, key, query), data = self.asked(), self.body()
        with lock:
            if "uploads" in query:
                counter["generation"] += 1
                name = f"upload-{counter['generation']}"
                uploads[name] = (bucket, key, now(), {})
                text = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
                return self.answer(200, text.encode())
            if query.get("uploadId") not in uploads:
                return self.error(404, "NoSuchUpload")
            _, _, _, parts = uploads.pop(query["uploadId"])
            numbers = [int(n) for n in re.findall(r"<PartNumber>(\d+)</PartNumber>", data.decode())]
            etag, generation = store(bucket, key, b"".join(parts[n] for n in numbers))
            text = f"<CompleteMultipartUploadResult><ETag>{escape(etag)}</ETag></CompleteMultipartUploadResult>"
            self.answer(200, text.encode(), x_goog_generation=generation)

    def do_DELETE(self):
        (bucket, key, query), _ = self.asked(), self.body()
        with lock:
            if "uploadId" in query:
                return self.answer(204) if uploads.pop(query["uploadId"], None) else self.error(404, "NoSuchUpload")
            self.answer(204) if objects.pop((bucket, key), None) else self.error(404, "NoSuchKey")

    def do_GET(self):
        bucket, key, query = self.asked()
        if self.missing(bucket):
            return
        with lock:
            if not key:
                return self.list_uploads(bucket, query) if "uploads" in query else self.list(bucket, query)
            found = objects.get((bucket, key))
        if found is None:
            return self.error(404, "NoSuchKey")
        data, etag, generation, seconds = found
        if self.headers.get("If-Match", etag) != etag:
            return self.error(412, "PreconditionFailed")
        headers = {
            "ETag": etag,
            "x_goog_generation": generation,
            "Last_Modified": formatdate(seconds, usegmt=True),
        }
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.answer(200, data, Content_Length=len(data), **headers)
        first, last = wanted.groups()
        if first == "":
            first, last = max(0, len(data) - int(last)), len(data) - 1
        first, last = int(first), min(int(last or len(data) - 1), len(data) - 1)
        if first > last:
            return self.error(416, "InvalidRange")
        part = data[first : last + 1]
        self.answer(206, part, Content_Range=f"bytes {first}-{last}/{len(data)}", **headers)

    do_HEAD = do_GET

    def list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        after = query.get("continuation-token", query.get("start-after", ""))
        contents, folders, token = [], set(), None
        names = sorted(k for b, k in objects if b == bucket and k.startswith(prefix) and k > after)
        for name in names:
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            # pages are short, so that clients must ask for more of them
            if len(contents) == 20:
                token = contents[-1]
                break
            contents.append(name)
        text = f"<ListBucketResult><IsTruncated>{str(bool(token)).lower()}</IsTruncated>"
        text += f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
        for name in contents:
            data, etag, _, seconds = objects[bucket, name]
            text += f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size><ETag>{escape(etag)}</ETag>"
            text += f"<LastModified>{xml_time(seconds)}</LastModified></Contents>"
        text += "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        self.answer(200, (text + "</ListBucketResult>").encode())

    def list_uploads(self, bucket, query):
        marker = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
        found = sorted(
            ((key, name), seconds)
            for name, (b, key, seconds, _) in uploads.items()
            if b == bucket and key.startswith(query.get("prefix", "")) and (key, name) > marker
        )
        page = found[:2]
        text = f"<ListMultipartUploadsResult><IsTruncated>{str(len(found) > 2).lower()}</IsTruncated>"
        if len(found) > 2:
            text += f"<NextKeyMarker>{escape(page[-1][0][0])}</NextKeyMarker>"
            text += f"<NextUploadIdMarker>{page[-1][0][1]}</NextUploadIdMarker>"
        for (key, name), seconds in page:
            text += f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId>"
            text += f"<Initiated>{xml_time(seconds)}</Initiated></Upload>"
        self.answer(200, (text + "</ListMultipartUploadsResult>").encode())


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # clients are killed in the midst of requests


server = Server(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
