"""What a browser does with JupyterLab, on the standard library alone.

Plain blocking sockets: it runs in a worker thread, and each call has a timeout.
"""

from __future__ import annotations

import base64
import http.client
import http.cookies
import json
import os
import re
import socket
import struct
import uuid
from typing import Any
from urllib.parse import urlencode

TIMEOUT = 60.0


class WebSocket:
    """A minimal client of RFC 6455: text messages of any size, pings answered."""

    def __init__(self, port: int, path: str, cookie: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Origin: http://127.0.0.1:{port}\r\n"
            f"Sec-WebSocket-Key: {key}\r\nCookie: {cookie}\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        status = self._file.readline()
        assert b" 101 " in status, status
        while self._file.readline() != b"\r\n":
            pass

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def send(self, text: str) -> None:
        """Send one text message."""
        self._send(0x1, text.encode())

    def receive(self) -> str:
        """Receive one text message, whole."""
        message = b""
        while True:
            first, payload = self._frame()
            opcode = first & 0x0F
            if opcode == 0x9:
                self._send(0xA, payload)
                continue
            assert opcode in {0x0, 0x1, 0x2, 0xA}, f"opcode {opcode}"
            if opcode != 0xA:
                message += payload
                if first & 0x80:
                    return message.decode()

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        # A mask of zeros is a mask, too, and leaves the payload as it is.
        self._socket.sendall(head + bytes(4) + payload)

    def _frame(self) -> tuple[int, bytes]:
        first, size = self._exactly(2)
        assert not size & 0x80, "servers do not mask"
        if size == 126:
            (size,) = struct.unpack("!H", self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._exactly(8))
        return first, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        assert len(data) == size, "the websocket ended"
        return data


class Browser:
    """A logged-in visitor of the JupyterLab behind a local port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._cookies: http.cookies.SimpleCookie = http.cookies.SimpleCookie()

    @property
    def _cookie(self) -> str:
        return "; ".join(f"{name}={cookie.value}" for name, cookie in self._cookies.items())

    def request(
        self, method: str, path: str, body: str | None = None, form: bool = False
    ) -> tuple[int, bytes]:
        """Make one request; return its status and body."""
        headers = {"Cookie": self._cookie} if self._cookies else {}
        if "_xsrf" in self._cookies:
            headers["X-XSRFToken"] = self._cookies["_xsrf"].value
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            for value in response.headers.get_all("Set-Cookie", []):
                self._cookies.load(value)
            return response.status, response.read()
        finally:
            connection.close()

    def login(self, token: str) -> None:
        """Log in as the form of the login page does."""
        status, page = self.request("GET", "/login")
        assert status == 200
        assert b"_xsrf" in page
        form = urlencode({"password": token, "_xsrf": self._cookies["_xsrf"].value})
        status, _ = self.request("POST", "/login", form, form=True)
        assert status == 302, f"login answered {status}"

    def static_files(self) -> list[str]:
        """Open the Lab's page; return the paths of the scripts that it loads."""
        status, page = self.request("GET", "/lab")
        assert status == 200
        return re.findall(r'src="([^"]+\.js[^"]*)"', page.decode())

    def start_kernel(self) -> str:
        """Start a Python kernel; return its id."""
        status, answer = self.request("POST", "/api/kernels", json.dumps({"name": "python3"}))
        assert status == 201, answer
        return str(json.loads(answer)["id"])

    def stop_kernel(self, kernel: str) -> None:
        """Shut a kernel down."""
        status, answer = self.request("DELETE", f"/api/kernels/{kernel}")
        assert status == 204, answer

    def channels(self, kernel: str) -> WebSocket:
        """Open the websocket to a kernel."""
        path = f"/api/kernels/{kernel}/channels?session_id={uuid.uuid4().hex}"
        return WebSocket(self.port, path, self._cookie)


def execute(channels: WebSocket, code: str) -> str:
    """Run a cell; return all that it printed, once the kernel is idle again."""
    request = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "",
        "session": uuid.uuid4().hex,
        "version": "5.3",
        "date": "2000-01-01T00:00:00Z",
    }
    content: dict[str, Any] = {"code": code, "silent": False, "store_history": True}
    content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
    message = {"header": request, "parent_header": {}, "metadata": {}, "content": content}
    channels.send(json.dumps(message | {"channel": "shell", "buffers": []}))
    printed = ""
    while True:
        reply = json.loads(channels.receive())
        if reply["parent_header"].get("msg_id") != request["msg_id"]:
            continue
        kind, content = reply["msg_type"], reply["content"]
        assert kind != "error", content
        if kind == "stream":
            printed += content["text"]
        elif kind == "status" and content["execution_state"] == "idle":
            return printed
