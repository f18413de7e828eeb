#!/usr/bin/env python3
"""ClickHouse's HTTP interface in front of the engine in Python's `chdb` package, for tests on a machine without Docker.

The SQL, the storage engines, the formats, the settings and the error codes are ClickHouse's own; this file is only the
way in: queries in the body or in ?query=, multipart parameters, param_x, settings, database, default_format, INSERT with
data in the body, native and HTTP compression both ways, accounts with passwords, exception codes, written and read rows.

What it does not cover, and a test that needs it must run against a real server:
- users, roles, grants, quotas and row policies in SQL: accounts are the --account flags, all of them may do everything
  but write, if marked read-only;
- Keeper, replication, clusters, ON CLUSTER and Distributed tables;
- the native protocol, MySQL and PostgreSQL protocols, TLS, and sessions (session_id) across requests;
- progress headers, responses that stream while the query runs (a result is whole in memory before its first byte), and so
  also errors in the middle of a response;
- asynchronous inserts' buffer, system.query_log and other logs of the server, KILL QUERY, and cancelling a query whose
  client goes away;
- durability against a power cut: the engine writes parts as `clickhouse local` does.
"""

import argparse
import base64
import email.parser
import email.policy
import gzip
import json
import re
import signal
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import lz4.block
import lz4.frame
import zstandard
from chdb import session
from clickhouse_cityhash.cityhash import CityHash128

# Parameters of the interface itself; every other one is a setting.
NOT_SETTINGS = {
    "query", "database", "default_format", "decompress", "compress", "user", "password", "query_id", "session_id",
    "session_timeout", "session_check", "close_session", "role", "quota_key", "wait_end_of_query", "buffer_size",
    "enable_http_compression", "http_zlib_compression_level", "client_protocol_version",
}  # fmt: skip
# An INSERT whose data follows the statement in a format of its own. VALUES are left to the SQL parser.
INSERT_WITH_DATA = re.compile(
    rb"^\s*(INSERT\s+INTO\s(?:(?!\bSELECT\b|\bVALUES\b).)*?)\bFORMAT\s+(\w+)[ \t]*;?[ \t]*(?:\r?\n|$)", re.I | re.S
)
# Exception codes that have an HTTP status of their own; the rest are 500.
STATUS = {
    **dict.fromkeys((6, 26, 27, 38, 41, 53, 62, 69, 70, 72, 117, 349, 456, 457), 400),
    **dict.fromkeys((516, 497, 164, 192), 403),
    **dict.fromkeys((46, 47, 50, 56, 60, 73, 81, 115, 16), 404),
    **dict.fromkeys((159,), 408),
    **dict.fromkeys((439, 202), 503),
    48: 501,
    194: 401,
}
BLOCK = 1 << 20


class Refused(Exception):
    """An answer that the engine was not asked for: a code and a text in ClickHouse's words."""

    def __init__(self, code, name, text):
        super().__init__(f"Code: {code}. DB::Exception: {text}. ({name})")


def unframe(data):
    """Undoes ClickHouse's native compression: frames of checksum, method, sizes and a block."""
    out, at = [], 0
    while at < len(data):
        if len(data) < at + 25:
            raise Refused(33, "CANNOT_READ_ALL_DATA", "Cannot read all data of a compressed block")
        method, packed, plain = struct.unpack_from("<BII", data, at + 16)
        block = data[at + 16 : at + 16 + packed]
        if len(block) != packed or data[at : at + 16] != checksum(block):
            raise Refused(40, "CHECKSUM_DOESNT_MATCH", "Checksum doesn't match: corrupted data")
        if method == 0x82:
            out.append(lz4.block.decompress(block[9:], uncompressed_size=plain))
        elif method == 0x90:
            out.append(zstandard.decompress(block[9:], plain))
        elif method == 0x02:
            out.append(block[9:])
        else:
            raise Refused(89, "UNKNOWN_COMPRESSION_METHOD", f"Unknown compression method: {method}")
        at += 16 + packed
    return b"".join(out)


def frame(data):
    """ClickHouse's native compression with LZ4."""
    out = []
    for at in range(0, len(data), BLOCK):
        plain = data[at : at + BLOCK]
        packed = lz4.block.compress(plain, store_size=False)
        block = struct.pack("<BII", 0x82, len(packed) + 9, len(plain)) + packed
        out += [checksum(block), block]
    return b"".join(out)


def checksum(block):
    value = CityHash128(bytes(block))
    return struct.pack("<QQ", value >> 64, value & (1 << 64) - 1)


def decode(data, encoding):
    """Undoes HTTP's Content-Encoding."""
    if encoding in ("", "identity"):
        return data
    if encoding == "gzip":
        return gzip.decompress(data)
    if encoding == "lz4":
        return lz4.frame.decompress(data)
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    raise Refused(89, "UNKNOWN_COMPRESSION_METHOD", f"Unknown Content-Encoding: {encoding}")


def encode(data, accepted):
    """The body in the first encoding that the client accepts, and that encoding's name."""
    for name, pack in (("zstd", zstandard.compress), ("lz4", lz4.frame.compress), ("gzip", lambda d: gzip.compress(d, 1))):
        if name in accepted:
            return pack(data), name
    return data, ""


def quoted(value):
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(name):
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


class Engine:
    """Sessions on one data folder. The process holds the folder, so one session is kept open; each query has its own,
    at 0.3 ms, so that no setting of one request is seen by another."""

    def __init__(self, path, concurrency):
        self.path = path
        self.kept = session.Session(path)
        self.slots = threading.BoundedSemaphore(concurrency)

    def run(self, statement, settings, database, fmt, params, reader):
        """The body of the answer and the summary's figures."""
        with self.slots, session.Session(self.path) as on:
            if database:
                on.query(f"USE {identifier(database)}")
            if reader:  # as the profile of a read-only account does; `readonly` itself can't be changed after it
                on.query("SET readonly = 2")
            # `readonly` comes last: nothing can be set after 1.
            for name in sorted(settings, key=lambda name: name == "readonly"):
                if not re.fullmatch(r"\w+", name):
                    raise Refused(115, "UNKNOWN_SETTING", f"Unknown setting {name!r}")
                on.query(f"SET {name} = {quoted(settings[name])}")
            if insert := INSERT_WITH_DATA.match(statement):
                return self.insert(on, insert, statement[insert.end() :])
            result = on.query(statement.decode(), fmt, params=params or None)
            return result.bytes() or b"", {"read_rows": result.rows_read(), "read_bytes": result.bytes_read()}

    @staticmethod
    def insert(on, insert, data):
        with on.send_insert(insert.group(1).decode(), insert.group(2).decode()) as into:
            for at in range(0, len(data), 8 * BLOCK):
                into.append(data[at : at + 8 * BLOCK])
            result = into.finish()
        return b"", {"written_rows": result.rows_written, "written_bytes": result.bytes_written}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    engine: Engine
    accounts: dict

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(readonly=True)

    def do_POST(self):
        self.answer(readonly=False)

    def answer(self, readonly):
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        try:
            body = self.body()
            if url.path in ("/ping", "/replicas_status") or (url.path == "/" and readonly and "query" not in query):
                return self.reply(200, b"Ok.\n")
            if url.path not in ("/", ""):
                return self.reply(404, b"There is no handle " + url.path.encode() + b"\n")
            data, summary = self.query(query, body, readonly)
        except (ConnectionError, ValueError) as broken:
            self.close_connection = True
            return self.reply(400, f"Code: 1000. DB::Exception: {broken}\n".encode(), {"X-ClickHouse-Exception-Code": "1000"})
        except Exception as error:  # noqa: BLE001 - whatever the engine says goes to the client
            return self.refuse(str(error))
        headers = {"X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in summary.items()})}
        if "query_id" in query:
            headers["X-ClickHouse-Query-Id"] = query["query_id"]
        if query.get("compress") == "1":
            data = frame(data)
        elif query.get("enable_http_compression") == "1":
            data, encoding = encode(data, self.headers.get("Accept-Encoding", ""))
            headers |= {"Content-Encoding": encoding} if encoding else {}
        self.reply(200, data, headers)

    def query(self, query, body, readonly):
        reader = self.authenticate(query)
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            query.update(multipart(content_type, body))
            body = b""
        body = decode(body, self.headers.get("Content-Encoding", "").lower())
        if query.get("decompress") == "1" and body:
            body = unframe(body)
        settings = {k: v for k, v in query.items() if k not in NOT_SETTINGS and not k.startswith("param_")}
        if readonly and not reader:
            settings.setdefault("readonly", "2")
        params = {k.removeprefix("param_"): v for k, v in query.items() if k.startswith("param_")}
        statement = query["query"].encode() + b"\n" + body if "query" in query else body
        if not statement.strip():
            raise Refused(62, "SYNTAX_ERROR", "Syntax error: failed at position 1 (end of query): empty query")
        database = query.get("database") or self.headers.get("X-ClickHouse-Database")
        fmt = query.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
        return self.engine.run(statement, settings, database, fmt, params, reader)

    def authenticate(self, query):
        """Whether the account is read-only; raises if there is no such account with this password."""
        user, password = query.get("user"), query.get("password")
        if user is None and "X-ClickHouse-User" in self.headers:
            user, password = self.headers["X-ClickHouse-User"], self.headers.get("X-ClickHouse-Key")
        authorization = self.headers.get("Authorization", "")
        if user is None and authorization.startswith("Basic "):
            user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
        user = user or "default"
        account = self.accounts.get(user)
        if account is None or account[0] != (password or ""):
            raise Refused(516, "AUTHENTICATION_FAILED", f"{user}: Authentication failed: password is incorrect, or there is no user with such name")
        return account[1]

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(length)
            if len(data) < length:
                raise ConnectionError("the body ends early")
            return data
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            if len(parts[-1]) < size:
                raise ConnectionError("a chunk ends early")
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def refuse(self, text):
        text = text[max(text.find("Code: "), 0) :]
        code = int(match[1]) if (match := re.match(r"Code: (\d+)", text)) else 1002
        self.reply(STATUS.get(code, 500), text.rstrip().encode() + b"\n", {"X-ClickHouse-Exception-Code": str(code)})

    def reply(self, status, data, headers=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def multipart(content_type, body):
    head = b"Content-Type: " + content_type.encode() + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True).decode()
        for part in message.iter_parts()
    }


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        # A client that goes away in the middle is its own affair.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(description="ClickHouse's HTTP interface over chdb, for tests")
    parser.add_argument("--path", required=True, help="data folder, held by this process")
    parser.add_argument("--port", type=int, default=18123)
    parser.add_argument("--concurrency", type=int, default=8, help="queries that run at once")
    parser.add_argument("--account", action="append", default=[], metavar="USER:PASSWORD[:readonly]")
    arguments = parser.parse_args()
    accounts = {}
    for account in arguments.account or ["default:"]:
        user, password, *marks = account.split(":")
        accounts[user] = (password, "readonly" in marks)
    Handler.engine, Handler.accounts = Engine(arguments.path, arguments.concurrency), accounts
    server = Server(("127.0.0.1", arguments.port), Handler)
    # `shutdown` waits for the loop in the main thread, so it can't be called there.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    Handler.engine.kept.close()


if __name__ == "__main__":
    main()
