"""Certificates for tests of TLS (`make FOLDER`, `renew FOLDER`), and a client (`ask FOLDER`)."""

import datetime
import http.client
import ipaddress
import json
import pathlib
import ssl
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def issue(folder, name, signer=None, authority=False):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    issuer, issuer_key = (subject, key) if signer is None else signer
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key").write_bytes(private)
    return subject, key


def authority(folder):
    certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    return certificate.subject, serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)


def ask(folder, want):
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if want["client"]:
        context.load_cert_chain(folder / f"{want['client']}.pem", folder / f"{want['client']}.key")
    host, port = want["address"].split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
    headers = {"Authorization": f"Bearer {want['token']}"} if want["token"] else {}
    try:
        connection.connect()
        serial = connection.sock.getpeercert()["serialNumber"]
        connection.request(want["method"], want["path"], headers=headers)
        answer = connection.getresponse()
        answer.read()
        return {"status": answer.status, "serial": serial}
    except (ssl.SSLError, OSError, http.client.HTTPException) as error:
        return {"status": None, "error": repr(error)}


def main():
    verb, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    want = json.load(sys.stdin)
    said = {}
    if verb == "make":
        own = issue(folder, "ca", authority=True)
        issue(folder, "server", own)
        issue(folder, "client", own)
        others = issue(folder, "other-ca", authority=True)
        issue(folder, "stranger", others)
    elif verb == "renew":
        issue(folder, "server", authority(folder))
    else:
        said = ask(folder, want)
    json.dump(said, sys.stdout)


main()
