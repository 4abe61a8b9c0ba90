"""What a request is refused with, in the form of OpenAI's errors."""

from typing import Any


class Refusal(Exception):
    """A request that cannot be served; `str(error)` is a sentence for its sender."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None
    ):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        message, param, code = str(self), self.param, self.code
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}
